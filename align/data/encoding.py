"""The one place where prompts and responses become token ids.

SFT, reward training, PPO and evaluation all encode through these functions, so each of them sees
exactly the same tokens. A response is encoded apart from its prompt and ends with one EOS; the
text of a response can never turn into special tokens. In a dialogue of several turns everything
that the chat template puts around the assistant's answers belongs to the prompt side:

    encode_conversation(turns + [answer]) == encode_prompt(turns) + encode_response(answer)

Departure: TRL encodes prompt and completion together and cuts where the ids diverge, which lets
tokens merge over the boundary; then PPO, which samples after the prompt, sees other tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from align.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message: TypeAlias = Mapping[str, Any]
Prompt: TypeAlias = str | Sequence[Message]


class EncodedConversation(NamedTuple):
    """A dialogue as ids (S,), and a mask (S,) that is 1 on what the assistant has to say."""

    ids: list[int]
    mask: list[int]


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> list[int]:
    """Ids (P,) that a response is conditioned on.

    A conversation goes through the chat template with its generation prompt. Plain text gets the
    BOS that the tokenizer itself would add (once, also where the text starts with it), no EOS;
    empty text becomes one BOS, or EOS without one, so that there is always a context.

    Raises:
        UserError: The template refuses the conversation.
    """
    if not isinstance(prompt, str):
        turns = _encode_turns(tokenizer, prompt)
        return turns.ids if turns else _plain_ids(tokenizer, _render(tokenizer, prompt))
    ids = _plain_ids(tokenizer, prompt)
    bos = tokenizer.bos_token_id
    if _adds_bos(tokenizer) and ids[:1] != [bos]:
        ids = [bos, *ids]
    return ids or [bos if bos is not None else tokenizer.eos_token_id]


def encode_response(tokenizer: PreTrainedTokenizerBase, response: Prompt) -> list[int]:
    """Ids (T,) of a response and the EOS that ends it.

    Special tokens written out in the text become plain characters, except an EOS at its very end,
    which is the one EOS.

    Args:
        tokenizer: Tokenizer of the model.
        response: Text, or a conversation of one assistant message.

    Raises:
        UserError: The conversation is not one assistant message.
    """
    text = response_text(response).removesuffix(tokenizer.eos_token)
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return [*ids, tokenizer.eos_token_id]


def encode_conversation(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]
) -> EncodedConversation:
    """Ids and assistant mask of a whole dialogue; each answer counts with the EOS after it.

    What follows the last answer is left out.

    Raises:
        UserError: No assistant message, or a template that rewrites earlier turns.
    """
    last = max((i for i, m in enumerate(messages) if m["role"] == "assistant"), default=-1)
    if last < 1:
        raise UserError("a dialogue needs an assistant message after another one")
    turns = _encode_turns(tokenizer, messages[:last])
    if turns is None:
        raise UserError(
            "the chat template rewrites earlier turns of a dialogue",
            remedy="split dialogues so that each has one assistant message",
        )
    ids, mask = turns
    answer = encode_response(tokenizer, messages[last : last + 1])
    return EncodedConversation(ids + answer, mask + [1] * len(answer))


def decode_response(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Text of response ids up to the first EOS; special tokens are skipped."""
    kept = list(ids)
    if tokenizer.eos_token_id in kept:
        kept = kept[: kept.index(tokenizer.eos_token_id)]
    text: str = tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text


def render_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> str:
    """The prompt as text: a conversation as its template writes it, plain text as it is."""
    return prompt if isinstance(prompt, str) else _render(tokenizer, prompt)


def pair_text(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, response: Prompt) -> str:
    """The text that a tokenizer by itself encodes as prompt, response and EOS; it adds the BOS.

    For whoever takes texts, such as transformers' pipelines. Tokens that merge over the boundary,
    and special tokens written out in the response, are the exceptions.
    """
    text, bos = render_prompt(tokenizer, prompt), tokenizer.bos_token
    if _adds_bos(tokenizer):
        text = text.removeprefix(str(bos))
    elif not text:
        text = str(bos or tokenizer.eos_token)
    end = str(tokenizer.eos_token)
    return text + response_text(response).removesuffix(end) + end


def response_text(response: Prompt) -> str:
    """Text of a response given as text or as a conversation of one assistant message.

    Raises:
        UserError: The conversation is something else.
    """
    if isinstance(response, str):
        return response
    if len(response) != 1 or response[0]["role"] != "assistant":
        roles = [message["role"] for message in response]
        raise UserError(f"a response with roles {roles}", allowed="one assistant message")
    return str(response[0]["content"])


def keep_end(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], n: int) -> list[int]:
    """The last ids of a sequence, at most `n`; a BOS that the tokenizer adds stays in front."""
    if len(ids) > n > 1 and _adds_bos(tokenizer) and ids[0] == tokenizer.bos_token_id:
        return [ids[0], *truncate_left(ids, n - 1)]
    return truncate_left(ids, n)


def truncate_left(ids: Sequence[int], n: int) -> list[int]:
    """The last `n` ids."""
    return list(ids[max(0, len(ids) - n) :])


def _encode_turns(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]
) -> EncodedConversation | None:
    """Encode what leads up to the next answer: earlier answers apart, the rest as rendered.

    None if the template does not write earlier answers where and as they were generated.
    """
    ids: list[int] = []
    mask: list[int] = []
    whole = _render(tokenizer, messages)
    done = 0
    for i, message in enumerate(messages):
        if message["role"] != "assistant" or i == 0:
            continue
        before = _render(tokenizer, messages[:i])
        written = _written_answer(tokenizer, message, whole[len(before) :])
        if not whole.startswith(before) or len(before) < done or written is None:
            return None
        _extend(ids, mask, _plain_ids(tokenizer, before[done:]), 0)
        _extend(ids, mask, encode_response(tokenizer, [message]), 1)
        done = len(before) + len(written)
    _extend(ids, mask, _plain_ids(tokenizer, whole[done:]), 0)
    return EncodedConversation(ids, mask)


def _written_answer(tokenizer: PreTrainedTokenizerBase, message: Message, after: str) -> str | None:
    """How the template writes an answer and its EOS at the start of `after`; None if it does not.

    A template may strip the answer, and may end turns with another token than EOS, which then
    belongs to what follows.
    """
    content = str(message["content"]).removesuffix(tokenizer.eos_token)
    for end in (str(tokenizer.eos_token), ""):
        for written in (content + end, content.strip() + end):
            if after.startswith(written):
                return written
    return None


def _extend(ids: list[int], mask: list[int], new: list[int], bit: int) -> None:
    ids += new
    mask += [bit] * len(new)


def _render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> str:
    """The conversation as its template writes it, with the generation prompt."""
    from jinja2.exceptions import TemplateError

    try:
        text: str = tokenizer.apply_chat_template(
            [dict(message) for message in messages], tokenize=False, add_generation_prompt=True
        )
    except (TemplateError, ValueError) as error:
        roles = [message["role"] for message in messages]
        raise UserError(f"the chat template refuses roles {roles}: {error}") from error
    return text


def _plain_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of text in which special tokens stand as text; none are added."""
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer itself starts a text with BOS."""
    start: list[int] = tokenizer("")["input_ids"][:1]
    return tokenizer.bos_token_id is not None and start == [tokenizer.bos_token_id]
