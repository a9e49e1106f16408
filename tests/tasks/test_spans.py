import re
from itertools import product

import pytest
import torch
from transformers import AutoTokenizer

from lightning_mixcd.tasks import span_pairing
from lightning_mixcd.tasks.spans import span_f1
from lightning_mixcd.tasks.tokenizers import named_tokenizer
from tests.tasks.tiny import module, ragged, save_rows, save_tokenizer

CONTEXT = "a table for two at quarter past eight"


def row(answer, context=CONTEXT, *, question="when ?"):
    start = context.find(answer) if answer else -1
    return {
        "question": question,
        "context": context,
        "start": start,
        "end": start + len(answer) if answer else -1,
        "slot": question.split()[0],
    }


ANSWERS = ["quarter past eight", "two", "a", "eight", CONTEXT, ""]


def made(tmp_path, rows):
    rows = save_rows(tmp_path, "rows", rows, columns=["slot"])
    return span_pairing(rows, rows, tokenizer=save_tokenizer(tmp_path / "tokenizer"))


def test_spans_of_tokens_are_the_answers(tmp_path):
    pairing = made(tmp_path, [row(answer) for answer in ANSWERS])
    decode = named_tokenizer(str(tmp_path / "tokenizer")).decode
    for answer, sample in zip(ANSWERS, pairing.pool.dataset, strict=True):
        first, last = sample["start_positions"], sample["end_positions"]
        found = decode(sample["input_ids"][first : last + 1])
        assert found == (answer or "[CLS]")
    assert pairing.columns["slot"].tolist() == len(ANSWERS) * ["when"]


def test_answers_stay_in_their_places_where_the_tokenizer_would_pad_on_the_left(tmp_path):
    folder = save_tokenizer(tmp_path / "tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    tokenizer.save_pretrained(tmp_path / "left")
    rows = save_rows(tmp_path, "rows", [row("eight"), row("two", "for two")])
    pool = span_pairing(rows, rows, tokenizer=str(tmp_path / "left")).pool
    batch = pool.collate_fn(pool.dataset)
    found = batch["input_ids"].gather(1, batch["start_positions"].unsqueeze(1))
    assert tokenizer.batch_decode(found) == ["eight", "two"]


def test_an_answer_is_looked_for_in_the_context_alone(tmp_path):
    [sample] = made(tmp_path, [row("two", question="who two ?")]).pool.dataset
    assert sample["input_ids"][sample["start_positions"]] == sample["input_ids"][2]
    assert sample["start_positions"] > sample["input_ids"].index(3)


def test_spaces_around_an_answer_do_not_count(tmp_path):
    padded = {**row("two"), "start": CONTEXT.find("two") - 1, "end": CONTEXT.find("two") + 4}
    plain, spaced = made(tmp_path, [row("two"), padded]).pool.dataset
    assert plain == spaced


@pytest.mark.parametrize(
    "answer",
    ["two\N{COMBINING ACUTE ACCENT}", "\N{ZERO WIDTH SPACE}two", "\N{SOFT HYPHEN}two\N{SOFT HYPHEN}"],
)
def test_characters_that_belong_to_no_token_may_begin_or_end_an_answer(tmp_path, answer):
    marked = row(answer, CONTEXT.replace("two", answer))
    plain, found = made(tmp_path, [row("two"), marked]).pool.dataset
    assert found == plain


@pytest.mark.parametrize("answer", [" ", "\N{ZERO WIDTH SPACE}"])
def test_answer_of_no_token_at_all_is_refused(tmp_path, answer):
    with pytest.raises(ValueError, match="span of `context`"):
        made(tmp_path, [row(answer, f"a {answer} table")])


@pytest.mark.parametrize(
    ("start", "end"),
    [(3, 3), (5, 2), (3, 99), (1, 2), (None, None), (2.0, 7.0), (-1, 7), (2, -1), (-2, -2), ([2], [7])],
)
def test_span_that_is_none_is_refused(tmp_path, start, end):
    got = re.escape(f"{start} and {end}")
    with pytest.raises(ValueError, match=rf"span of `context`.*got {got} in row 0: 'a table"):
        made(tmp_path, [{**row("two"), "start": start, "end": end}])


def test_f1_is_that_of_the_sets_of_tokens():
    n = 4
    spans = list(product(range(n), range(n)))
    cases = [(found, true) for found in spans for true in spans if true[0] <= true[1]]
    expected = []
    for found, true in cases:
        a, b = set(range(found[0], found[1] + 1)), set(range(true[0], true[1] + 1))
        f1 = 2 * len(a & b) / (len(a) + len(b))
        expected.append(float(found == true) if true == (0, 0) else f1)
    columns = torch.tensor([[*found, *true] for found, true in cases]).unbind(1)
    assert span_f1(columns[:2], columns[2:]).tolist() == pytest.approx(expected)


def test_a_row_is_right_only_if_start_and_end_are():
    model = module("spans").eval()
    batch, _ = ragged("spans", [6, 6], seed=0)
    outputs = model.training_step(batch, 0)
    for start, end in ((0, 0), (1, 0), (0, 1), (1, 1)):
        # Only the second row is asked for another place than the model finds.
        moved = {
            **batch,
            "start_positions": (outputs["first"] + torch.tensor([0, start])) % 6,
            "end_positions": (outputs["last"] + torch.tensor([0, end])) % 6,
        }
        assert model.training_step(moved, 0)["correct"].tolist() == [True, (start, end) == (0, 0)]


def test_losses_are_those_of_each_row_without_padding():
    model = module("spans").eval()
    batch, samples = ragged("spans", [4, 9, 6], seed=0)
    outputs = model.training_step(batch, 0)
    for k, sample in enumerate(samples):
        ids = torch.tensor([sample["input_ids"]])
        types = torch.tensor([sample["token_type_ids"]])
        logits = model.network(input_ids=ids, token_type_ids=types)
        start, end = logits.start_logits[0].log_softmax(0), logits.end_logits[0].log_softmax(0)
        expected = -(start[sample["start_positions"]] + end[sample["end_positions"]]) / 2
        assert torch.allclose(outputs["losses"][k], expected, atol=1e-5)
        assert (outputs["first"][k], outputs["last"][k]) == (start.argmax(), end.argmax())


def test_scores_are_exact_match_and_f1():
    model = module("spans").eval()
    batch, _ = ragged("spans", [4, 9, 6], seed=0)
    outputs = model.training_step(batch, 0)
    scores = model.scores(outputs, batch)
    assert scores["accuracy"].equal(outputs["correct"])
    assert all(f1 == 1 for f1, right in zip(scores["f1"], scores["accuracy"], strict=True) if right)
