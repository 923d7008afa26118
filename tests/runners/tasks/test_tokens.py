import pytest

from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.tasks import tokens


def test_pieces_together_read_as_the_text(tokenizer):
    pieces = ["The first sentence.", " A second one, 12345!", "\n\nA paragraph.", " And the rest"]
    ids = tokens.encode_inside(tokenizer, pieces)
    assert all(ids)
    together = tokenizer.decode([i for piece in ids for i in piece])
    assert " ".join(together.split()) == " ".join("".join(pieces).split())


def test_the_opening_is_what_the_tokenizer_puts_before_a_text(tokenizer):
    opening = tokens.opening_ids(tokenizer)
    assert opening == list(tokenizer.encode("x y"))[: len(opening)]
    assert opening + tokens.encode(tokenizer, "x y") == list(tokenizer.encode("x y"))


def test_every_token_with_a_line_s_end_stops_an_answer(tokenizer):
    stops = tokens.stop_ids(tokenizer, ["newline"])
    assert {i for i in range(len(tokenizer)) if "\n" in tokenizer.decode([i])} == set(stops)
    assert tokenizer.eos_token_id not in stops
    assert tokenizer.eos_token_id in tokens.stop_ids(tokenizer, ["eos"])


def test_a_chat_template_is_cut_where_the_context_ends(tokenizer):
    before, after = tokens.chat_halves(tokenizer, "Read:\n", "\nWhat?")
    assert (before, after) == ("<turn>user\nRead:\n", "\nWhat?</turn>\n<turn>model\n")


def test_a_tokenizer_without_a_chat_template_is_an_error_that_says_what_to_do(bytes_tokenizer):
    bytes_tokenizer = type(bytes_tokenizer)(tokenizer_object=bytes_tokenizer.backend_tokenizer)
    with pytest.raises(UsageError, match=r"no chat template; set task\.chat_template=false"):
        tokens.chat_halves(bytes_tokenizer, "a", "b")


def test_the_tokenizer_s_hash_is_of_what_makes_ids_and_of_nothing_else(tokenizer, bytes_tokenizer):
    first = tokens.tokenizer_hash(bytes_tokenizer)
    bytes_tokenizer(["a", "bcd"], padding=True, truncation=True, max_length=2)
    assert tokens.tokenizer_hash(bytes_tokenizer) == first
    assert (tokens.tokenizer_hash(tokenizer) == first) == (tokenizer is bytes_tokenizer or len(tokenizer) == 258)
