"""Prompts and responses as ids: worked out by hand, and against the tokenizer's own template."""

from copy import deepcopy

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from align.data.encoding import (
    decode_response,
    encode_conversation,
    encode_prompt,
    encode_response,
    render_prompt,
    response_text,
    truncate_left,
)
from align.errors import UserError

BEGIN, END, USER, ASSISTANT, SYSTEM = 1, 2, 3, 4, 5
QUESTION = [{"role": "user", "content": "Hi"}]
DIALOGUE = [
    {"role": "user", "content": "the red box ?"},
    {"role": "assistant", "content": "no , the blue bell ."},
    {"role": "user", "content": "is paul in rome ?\nor oslo ?"},
    {"role": "assistant", "content": " Maria is .\n\nPaul is not"},
]
# any text but lone surrogates, which UTF-8 cannot hold
ANY_TEXT = st.text(st.characters(codec="utf-8"), max_size=30)
# a shared tokenizer is no hazard: it is not changed
SHARED = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def byte_ids(text: str) -> list[int]:
    """Ids without merges: 6 special tokens, then printable ASCII in order; a space is the 221st.

    GPT-2's byte alphabet, sorted: 94 characters from "!" (0x21), 12 from U+00A1, 82 from U+00AE,
    then the other 68 bytes as U+0100 and on, of which the space (0x20) is number 32.
    """
    return [6 + (220 if char == " " else ord(char) - 0x21) for char in text]


def with_template(tokenizer: PreTrainedTokenizerFast, template: str) -> PreTrainedTokenizerFast:
    changed = deepcopy(tokenizer)
    changed.chat_template = template
    return changed


class TestPrompt:
    def test_a_conversation_ends_with_the_generation_prompt(self, bytes_tokenizer) -> None:
        expected = [BEGIN, USER, *byte_ids("Hi"), END, ASSISTANT]
        assert encode_prompt(bytes_tokenizer, QUESTION) == expected

    def test_plain_text_gets_one_bos_and_no_eos(self, bytes_tokenizer) -> None:
        assert encode_prompt(bytes_tokenizer, "a b") == [BEGIN, *byte_ids("a b")]
        assert encode_prompt(bytes_tokenizer, "<|begin|>a b") == [BEGIN, *byte_ids("a b")]

    def test_plain_text_gets_no_bos_that_the_tokenizer_would_not_add(self, chatml_tokenizer):
        ids = encode_prompt(chatml_tokenizer, "the cat")
        assert ids == chatml_tokenizer("the cat")["input_ids"]
        assert chatml_tokenizer.bos_token_id not in ids

    def test_empty_text_becomes_a_context(self, bytes_tokenizer, chatml_tokenizer) -> None:
        assert encode_prompt(bytes_tokenizer, "") == [BEGIN]
        assert encode_prompt(chatml_tokenizer, "") == [chatml_tokenizer.bos_token_id]

    def test_an_earlier_answer_is_encoded_like_a_response(self, bytes_tokenizer) -> None:
        turns = [*QUESTION, {"role": "assistant", "content": "<|user|>"}, *QUESTION]
        assert encode_prompt(bytes_tokenizer, turns) == [
            *(BEGIN, USER, *byte_ids("Hi"), END, ASSISTANT),
            *(*byte_ids("<|user|>"), END),
            *(USER, *byte_ids("Hi"), END, ASSISTANT),
        ]

    def test_render(self, bytes_tokenizer) -> None:
        rendered = render_prompt(bytes_tokenizer, QUESTION)
        assert rendered == "<|begin|><|user|>Hi<|end|><|assistant|>"
        assert render_prompt(bytes_tokenizer, "Hi") == "Hi"

    def test_a_role_that_the_template_refuses(self, bytes_tokenizer) -> None:
        with pytest.raises(UserError, match=r"roles \['tool'\].*unknown role tool"):
            encode_prompt(bytes_tokenizer, [{"role": "tool", "content": "x"}])


class TestResponse:
    def test_ends_with_eos_once(self, bytes_tokenizer) -> None:
        assert encode_response(bytes_tokenizer, "ok") == [*byte_ids("ok"), END]
        assert encode_response(bytes_tokenizer, "ok<|end|>") == [*byte_ids("ok"), END]
        assert encode_response(bytes_tokenizer, "") == [END]

    def test_a_conversation_of_one_answer(self, bytes_tokenizer) -> None:
        answer = [{"role": "assistant", "content": "ok"}]
        assert encode_response(bytes_tokenizer, answer) == [*byte_ids("ok"), END]
        assert response_text(answer) == "ok"

    @pytest.mark.parametrize("messages", [[], QUESTION, [*QUESTION, *QUESTION]])
    def test_any_other_conversation_is_refused(self, bytes_tokenizer, messages) -> None:
        with pytest.raises(UserError, match="allowed: one assistant message"):
            encode_response(bytes_tokenizer, messages)

    def test_text_never_becomes_a_special_token(self, bytes_tokenizer) -> None:
        text = "a<|end|>b<|user|>"
        assert encode_response(bytes_tokenizer, text) == [*byte_ids(text), END]

    @SHARED
    @given(text=ANY_TEXT)
    def test_decoding_gives_the_text_back(self, tiny_tokenizer, text: str) -> None:
        assert decode_response(tiny_tokenizer, encode_response(tiny_tokenizer, text)) == text

    def test_decoding_stops_at_the_first_eos(self, bytes_tokenizer) -> None:
        ids = [*byte_ids("ab"), END, *byte_ids("c"), END]
        assert decode_response(bytes_tokenizer, ids) == "ab"
        assert decode_response(bytes_tokenizer, [0, BEGIN, *byte_ids("ab")]) == "ab"


class TestConversation:
    def test_mask_is_on_answers_and_their_eos(self, bytes_tokenizer) -> None:
        turns = [
            {"role": "system", "content": "s"},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "yo"},
            {"role": "user", "content": "b"},
            {"role": "assistant", "content": "c"},
        ]
        ids, mask = encode_conversation(bytes_tokenizer, turns)
        pieces = [
            ([BEGIN, SYSTEM, *byte_ids("s"), END, USER, *byte_ids("Hi"), END, ASSISTANT], 0),
            ([*byte_ids("yo"), END], 1),
            ([USER, *byte_ids("b"), END, ASSISTANT], 0),
            ([*byte_ids("c"), END], 1),
        ]
        assert ids == [token for piece, _ in pieces for token in piece]
        assert mask == [bit for piece, bit in pieces for _ in piece]

    @pytest.mark.parametrize("name", ["tiny_tokenizer", "chatml_tokenizer"])
    def test_equals_the_template_up_to_the_last_eos(self, name: str, request) -> None:
        tokenizer = request.getfixturevalue(name)
        whole = tokenizer.apply_chat_template(DIALOGUE, return_dict=True)["input_ids"]
        last = len(whole) - 1 - whole[::-1].index(tokenizer.eos_token_id)
        assert encode_conversation(tokenizer, DIALOGUE).ids == whole[: last + 1]

    def test_mask_equals_the_template_s_own_marks(self, chatml_tokenizer) -> None:
        marked = chatml_tokenizer.apply_chat_template(
            DIALOGUE, return_dict=True, return_assistant_tokens_mask=True
        )
        ids, mask = encode_conversation(chatml_tokenizer, DIALOGUE)
        assert mask == marked["assistant_masks"][: len(ids)]
        assert sum(mask) == sum(marked["assistant_masks"])

    @SHARED
    @given(texts=st.lists(ANY_TEXT, min_size=4, max_size=4), last=ANY_TEXT)
    @pytest.mark.parametrize("name", ["tiny_tokenizer", "chatml_tokenizer"])
    def test_is_prompt_and_response(self, name: str, request, texts: list[str], last: str) -> None:
        tokenizer = request.getfixturevalue(name)
        roles = ["user", "assistant", "user", "assistant"]
        turns = [{"role": r, "content": t} for r, t in zip(roles, texts, strict=True)]
        turns.append({"role": "user", "content": "x"})
        answer = {"role": "assistant", "content": last}
        ids, mask = encode_conversation(tokenizer, [*turns, answer])
        response = encode_response(tokenizer, last)
        assert ids == encode_prompt(tokenizer, turns) + response
        assert mask[-len(response) :] == [1] * len(response)

    def test_what_follows_the_last_answer_is_left_out(self, bytes_tokenizer) -> None:
        turns = [*QUESTION, {"role": "assistant", "content": "yo"}]
        assert encode_conversation(bytes_tokenizer, [*turns, *QUESTION]) == encode_conversation(
            bytes_tokenizer, turns
        )

    @pytest.mark.parametrize(
        "turns",
        [[], QUESTION, [{"role": "assistant", "content": "a"}]],
        ids=["none", "user", "alone"],
    )
    def test_needs_an_answer(self, bytes_tokenizer, turns) -> None:
        with pytest.raises(UserError, match="assistant message after another"):
            encode_conversation(bytes_tokenizer, turns)


class TestOtherTemplates:
    def test_one_that_strips_answers(self, bytes_tokenizer) -> None:
        template = bytes_tokenizer.chat_template.replace(
            "message['content'] +", "message['content'] | trim +"
        )
        tokenizer = with_template(bytes_tokenizer, template)
        turns = [*QUESTION, {"role": "assistant", "content": " yo "}, *QUESTION]
        expected = encode_prompt(bytes_tokenizer, turns)
        assert encode_prompt(tokenizer, turns) == expected

    def test_one_that_ends_turns_with_another_token(self, bytes_tokenizer) -> None:
        template = bytes_tokenizer.chat_template.replace("eos_token", "'#'")
        tokenizer = with_template(bytes_tokenizer, template)
        answer = {"role": "assistant", "content": "yo"}
        ids, mask = encode_conversation(tokenizer, [*QUESTION, answer, *QUESTION, answer])
        turn = [USER, *byte_ids("Hi#"), ASSISTANT]
        said = [*byte_ids("yo"), END]
        assert ids == [BEGIN, *turn, *said, *byte_ids("#"), *turn, *said]
        assert sum(mask) == 2 * len(said)

    def test_one_that_rewrites_earlier_answers(self, bytes_tokenizer) -> None:
        template = bytes_tokenizer.chat_template.replace(
            "message['content'] +", "(message['content'] if loop.last else '...') +"
        )
        tokenizer = with_template(bytes_tokenizer, template)
        answer = {"role": "assistant", "content": "yo"}
        turns = [*QUESTION, answer, *QUESTION]
        with pytest.raises(UserError, match="rewrites earlier turns"):
            encode_conversation(tokenizer, [*turns, answer])
        assert encode_prompt(tokenizer, turns) == [
            *(BEGIN, USER, *byte_ids("..."), END),
            *(ASSISTANT, *byte_ids("..."), END),
            *(USER, *byte_ids("Hi"), END, ASSISTANT),
        ]


def test_truncate_left() -> None:
    assert truncate_left([1, 2, 3], 2) == [2, 3]
    assert truncate_left([1, 2, 3], 5) == [1, 2, 3]
    assert truncate_left([1, 2, 3], 0) == []
