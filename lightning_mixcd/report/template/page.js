"use strict";
(() => {
  const boxes = [...document.querySelectorAll("#methods input")];
  const theme = document.getElementById("theme");
  const tip = document.getElementById("tip");
  const hidden = document.head.appendChild(document.createElement("style"));

  // The address keeps what is shown, so that it can be sent to others: #show=a&show=b&theme=dark
  const state = () => new URLSearchParams(location.hash.slice(1));
  function read() {
    const names = state().getAll("show");
    const all = names.length === 0;
    for (const box of boxes) box.checked = all ? "chosen" in box.dataset : names.includes(box.dataset.name);
    theme.value = state().get("theme") || "";
    show();
  }
  function keep() {
    const found = new URLSearchParams();
    const on = boxes.filter((box) => box.checked);
    if (boxes.some((box) => box.checked !== "chosen" in box.dataset)) {
      for (const name of on.length ? on.map((box) => box.dataset.name) : [""]) found.append("show", name);
    }
    if (theme.value) found.set("theme", theme.value);
    history.replaceState(null, "", "#" + found);
    show();
  }
  function show() {
    const off = boxes.filter((box) => !box.checked).map((box) => `[data-m="${box.value}"]`);
    hidden.textContent = off.length ? `@media screen { ${off.join(", ")} { display: none; } }` : "";
    document.documentElement.dataset.theme = theme.value;
    const on = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
    pack(on);
    for (const figure of document.querySelectorAll("figure")) {
      const parts = [...figure.querySelectorAll("[data-m]")];
      figure.classList.toggle("empty", !parts.some((part) => on.has(part.dataset.m)));
    }
    tip.hidden = true;
  }

  // Rows of a stack move up into the place of those that are hidden.
  function pack(on) {
    for (const svg of document.querySelectorAll("svg[data-rows]")) {
      const height = Number(svg.dataset.height);
      const parts = [...svg.querySelectorAll("[data-row]")];
      const rows = [...new Set(parts.filter((part) => on.has(part.dataset.m)).map((part) => Number(part.dataset.row)))];
      rows.sort((a, b) => a - b);
      for (const part of parts) {
        const place = rows.indexOf(Number(part.dataset.row));
        part.setAttribute("transform", place < 0 ? "" : `translate(0 ${(place - part.dataset.row) * height})`);
      }
      svg.dataset.whole ||= svg.getAttribute("viewBox");
      const [x, y, width, whole] = svg.dataset.whole.split(" ").map(Number);
      const shown = whole - (Number(svg.dataset.rows) - rows.length) * height;
      svg.setAttribute("viewBox", `${x} ${y} ${width} ${shown}`);
      svg.setAttribute("height", `${shown}pt`);
    }
  }

  for (const box of boxes) box.addEventListener("change", keep);
  theme.addEventListener("change", keep);
  for (const button of document.querySelectorAll("[data-show]")) {
    button.addEventListener("click", () => {
      const what = button.dataset.show;
      for (const box of boxes) box.checked = what === "all" || (what === "chosen" && "chosen" in box.dataset);
      keep();
    });
  }

  // What is said of a mark: at the pointer, or, with the arrow keys, at the mark.
  for (const title of document.querySelectorAll(".mark > title")) {
    title.parentNode.setAttribute("aria-label", title.textContent);
    title.parentNode.setAttribute("role", "img");
    title.remove();
  }
  function say(mark, x, y) {
    tip.textContent = mark.getAttribute("aria-label");
    tip.hidden = false;
    tip.style.left = `${Math.max(8, Math.min(x + 12, innerWidth - tip.offsetWidth - 8))}px`;
    tip.style.top = `${y + 16 + tip.offsetHeight > innerHeight ? y - tip.offsetHeight - 12 : y + 16}px`;
  }
  document.addEventListener("pointerover", (event) => {
    const mark = event.target.closest?.(".mark");
    if (mark) say(mark, event.clientX, event.clientY);
    else tip.hidden = true;
  });
  function leave(svg) {
    svg.querySelector(".here")?.classList.remove("here");
    tip.hidden = true;
  }
  for (const svg of document.querySelectorAll("figure svg")) {
    svg.addEventListener("blur", () => leave(svg));
    svg.addEventListener("keydown", (event) => {
      const move = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (event.key === "Escape") leave(svg);
      if (!move) return;
      event.preventDefault();
      const seen = [...svg.querySelectorAll(".mark")].filter((mark) => mark.getClientRects().length);
      const now = seen.indexOf(svg.querySelector(".here"));
      const next = seen[(now + move + (now < 0 && move < 0 ? 1 : 0) + seen.length) % seen.length];
      if (!next) return;
      leave(svg);
      next.classList.add("here");
      const box = next.getBoundingClientRect();
      say(next, box.right, box.bottom - 12);
    });
  }

  // Going to a section leaves the address to the state.
  for (const link of document.querySelectorAll('nav a')) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      document.querySelector(link.getAttribute("href")).scrollIntoView();
    });
  }

  // On paper nothing is hidden, and everything is open but the long tables.
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not(.numbers):not([open])")];
    for (const part of closed) part.open = true;
    pack(new Set(boxes.map((box) => box.value)));
  });
  addEventListener("afterprint", () => {
    for (const part of closed) part.open = false;
    show();
  });
  addEventListener("hashchange", read);
  read();
})();
