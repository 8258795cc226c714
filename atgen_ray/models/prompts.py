"""Prompts and answers as token ids: the same ones for generation, for training and for scoring.

Example:
    builder = PromptBuilder(load_tokenizer(model), config.prompt, model.max_prompt_tokens)
    tokens = builder.encode("Where is Tallinn?") + builder.encode_answer("In Estonia.")
"""

from typing import TYPE_CHECKING, Any, TypeVar

import jinja2

from atgen_ray.config import PromptConfig
from atgen_ray.core.errors import UserError
from atgen_ray.models.chat_template import (
    PROBE,
    Turns,
    break_special_tokens,
    find_end_of_turn,
    find_gap,
    list_special_tokens,
    render_turns,
    takes_system,
)
from atgen_ray.models.conversation_prompts import ConversationPrompts, shorten
from atgen_ray.models.user_template import fill_template, find_ending, list_variables
from atgen_ray.text.conversation import Conversation, read_conversation, show_example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Item = TypeVar("Item")


class OverlongPromptError(ValueError):
    """A prompt of more than model.max_prompt_tokens where prompt.overlong is "reject"."""


class PromptBuilder:
    """Encodes the text of an example, which may be a conversation, as a prompt in the tokenizer's
    own chat template, and answers as token ids.

    Raises:
        UserError: the few-shot examples do not fit prompt.template, the parts of the prompt that
            are the same for every example fill model.max_prompt_tokens, or the tokenizer has no
            token that ends an answer.
    """

    def __init__(
        self, tokenizer: "PreTrainedTokenizerBase", prompt: PromptConfig, max_prompt_tokens: int
    ) -> None:
        self.tokenizer = tokenizer
        self.prompt = prompt
        self.max_prompt_tokens = max_prompt_tokens
        # A tokenizer joins a space to the word after it. So the space before an answer belongs to
        # the answer's tokens, which the model generates, and not to the end of the prompt.
        start = find_gap(tokenizer) + prompt.response_start
        self._start = start.rstrip(" ")
        self._gap = start[len(self._start) :]
        self._ending = find_ending(prompt.template)
        self._special = list(list_special_tokens(tokenizer).values())
        self._folded = prompt.system is not None and not takes_system(tokenizer)
        shots = self._show_shots()
        self._turns = [*self._open_turns(), *shots]
        self._conversations = ConversationPrompts(tokenizer, prompt.system, shots, self._special)
        self._bos = _find_bos(tokenizer)
        self._before = (
            render_turns(tokenizer, self._ask(PROBE), generation=True).rpartition(PROBE)[2]
            + self._start
        )
        self._before_ids = self._tokenize(self._before)
        end = find_end_of_turn(tokenizer)
        if end is None:
            raise UserError(
                "model.id names a model whose tokenizer has no end-of-turn and no end-of-sequence "
                "token"
            )
        self._end = end
        fixed = len(self._encode_whole(self._ending))
        self._fixed = fixed
        if fixed >= max_prompt_tokens:
            raise UserError(
                f"model.max_prompt_tokens is {max_prompt_tokens}, but the system turn, the "
                f"few-shot examples and the "
                f"chat template alone take {fixed} tokens, expected more than that"
            )

    @property
    def stop_ids(self) -> list[int]:
        """Return the tokens that end an answer: the template's end of turn, then the end of
        sequence.
        """
        eos = self.tokenizer.eos_token_id
        return [self._end] if eos is None or eos == self._end else [self._end, eos]

    @property
    def adds_bos(self) -> bool:
        """Return whether a token that no template writes begins every prompt."""
        return bool(self._bos)

    def render(self, text: str) -> str:
        """Return the whole prompt as text: system turn, few-shot turns, the user turn `text`,
        prompt.response_start.
        """
        return self._render(text) + (self._gap if self.prompt.response_start else "")

    def encode(self, text: str) -> list[int]:
        """Return the token ids of the prompt, at most max_prompt_tokens.

        An overlong prompt loses the end of `text`, up to the fixed text that closes
        prompt.template; everything else stays whole. An overlong conversation loses its oldest
        turns, and what is still too long the ends of its turns.

        Raises:
            OverlongPromptError: it is too long and prompt.overlong is "reject".
        """
        ids = self._encode_whole(text)
        if len(ids) <= self.max_prompt_tokens:
            return ids
        return self._cut(self._encode_whole(self._shorten(text, len(ids))))

    def encode_turns(self, text: str) -> tuple[list[int], list[bool]]:
        """Return the token ids of the prompt, and which of them are answers of the assistant in
        earlier turns, with the tokens that end them; none where `text` is no conversation.

        Raises:
            OverlongPromptError: as `encode`.
            UserError: the chat template does not show where the answers are.
        """
        shown = self._shorten(text, len(self._encode_whole(text)))
        conversation = read_conversation(shown)
        if conversation is None:
            ids = self._encode_whole(shown)
            return ids, [False] * len(ids)
        spans, found = self._conversations.find_answers(conversation)
        if not found or not self.tokenizer.is_fast:
            raise UserError(
                "training.turns is 'all', but the chat template or the tokenizer of model.id does "
                "not show where the answers in earlier turns are, expected 'last'"
            )
        encoded = self.tokenizer(
            self._render(shown), add_special_tokens=False, return_offsets_mapping=True
        )
        marks = [False] * len(self._bos) + [
            first < last and any(first < end and last > start for start, end in spans)
            for first, last in encoded["offset_mapping"]
        ]
        return self._cut(self._bos + encoded["input_ids"]), self._cut(marks)

    def _shorten(self, text: str, length: int) -> str:
        """Return `text` as the prompt has it, which fits unless it is a conversation whose tools
        and system turn alone do not. `length`: tokens of the prompt with the whole of it.
        """
        if length <= self.max_prompt_tokens:
            return text
        if self.prompt.overlong == "reject":
            raise OverlongPromptError(
                f"the prompt has {length} tokens, more than the {self.max_prompt_tokens} allowed"
            )
        conversation = read_conversation(text)
        if conversation is None:
            return text[: self._fit(text)] + self._find_ending(text)
        return shorten(conversation, self._holds).write()

    def _holds(self, conversation: Conversation) -> bool:
        return len(self._encode_whole(conversation.write())) <= self.max_prompt_tokens

    def _cut(self, tokens: list[Item]) -> list[Item]:
        """Return the tokens without the middle of those that are too many."""
        over = len(tokens) - self.max_prompt_tokens
        head = self.max_prompt_tokens // 2
        return tokens if over <= 0 else tokens[:head] + tokens[head + over :]

    def find_window(self, text: str) -> int | None:
        """Return the number of characters of `text` that the model reads before the prompt is too
        long, None where it reads all.
        """
        if read_conversation(text) is not None:
            return None  # what is cut is the beginning
        # A token is a byte at least, so most texts need not be encoded.
        if len(text.encode("utf-8", "replace")) + self._fixed <= self.max_prompt_tokens:
            return None
        if len(self._encode_whole(text)) <= self.max_prompt_tokens:
            return None
        return self._fit(text)

    def _find_ending(self, text: str) -> str:
        """Return the fixed text that closes prompt.template, where `text` ends with it."""
        return self._ending if text.endswith(self._ending) else ""

    def _fit(self, text: str) -> int:
        """Return the characters of an overlong `text` that fit before the template's ending."""
        ending = self._find_ending(text)
        body = text.removesuffix(ending)

        def fits(characters: int) -> bool:
            return len(self._encode_whole(body[:characters] + ending)) <= self.max_prompt_tokens

        # Double the length, so that no step encodes much more than what fits; then bisect. `low`
        # characters fit, `high` do not.
        low = 0
        high = self.max_prompt_tokens
        while high < len(body) and fits(high):
            low = high
            high = 2 * high
        high = min(high, len(body))
        while high - low > 1:
            middle = (low + high) // 2
            if fits(middle):
                low = middle
            else:
                high = middle
        return low

    def encode_answer(self, answer: str, text: str = "") -> list[int]:
        """Return the token ids of `answer` as the model would generate it after `encode(text)`,
        closed by one end-of-turn token.

        Calls of the tools of a conversation are written as the chat template writes them.
        """
        conversation = read_conversation(text) if not self.prompt.response_start else None
        if conversation is not None and conversation.tools:
            called = self._conversations.write_answer(conversation, answer)
            if called is not None:
                return [*self._continue(called), self._end]
        text = answer.strip().removeprefix(self.prompt.response_start.lstrip())
        if not text.strip():
            return [self._end]
        text = self._gap + (text.lstrip(" ") if self._gap else text)
        return [*self._continue(break_special_tokens(text, self._special)), self._end]

    def decode(self, token_ids: list[int]) -> str:
        """Return the answer in generated ids, up to the first end of turn, without special tokens
        and after prompt.response_start.
        """
        stops = set(self.stop_ids)
        end = next((at for at, token in enumerate(token_ids) if token in stops), len(token_ids))
        # Decode the ids after the end of the prompt, then cut that off: many tokenizers drop the
        # first word's space when it has nothing before it.
        before = self._decode(self._before_ids)
        answer = self._decode(self._before_ids + token_ids[:end])[len(before) :]
        if self._gap:
            answer = self._gap + answer.lstrip(" ")
        return (self._start + answer).strip()

    def _open_turns(self) -> Turns:
        """Return the turns before the solved examples."""
        if self.prompt.system is None or self._folded:
            return []
        return [{"role": "system", "content": self.prompt.system}]

    def _show_shots(self) -> Turns:
        """Return the turns of the solved examples."""
        turns: Turns = []
        start = self.prompt.response_start
        for shot in self.prompt.few_shot:
            question = show_example(self._fill_shot(shot.input))
            answer = shot.output.removeprefix(start)
            turns.append({"role": "user", "content": break_special_tokens(question, self._special)})
            turns.append(
                {
                    "role": "assistant",
                    "content": start + break_special_tokens(answer, self._special),
                }
            )
        return turns

    def _fill_shot(self, text: str) -> str:
        try:
            return fill_template(self.prompt.template, {"input": text})
        except jinja2.UndefinedError as error:
            names = ", ".join(sorted(list_variables(self.prompt.template) - {"input"}))
            raise UserError(
                f"prompt.template names '{names}', but the examples in prompt.few_shot have only "
                f"'input'"
            ) from error

    def _ask(self, text: str) -> Turns:
        """Return all turns with the question `text`; the system turn is folded into the first user
        turn if need be.
        """
        turns = [*self._turns, {"role": "user", "content": text}]
        if self._folded:
            turns[0] = {"role": "user", "content": f"{self.prompt.system}\n\n{turns[0]['content']}"}
        return turns

    def _render(self, text: str) -> str:
        conversation = read_conversation(text)
        if conversation is not None:
            return self._conversations.render(conversation) + self._start
        safe = break_special_tokens(text, self._special)
        return render_turns(self.tokenizer, self._ask(safe), generation=True) + self._start

    def _encode_whole(self, text: str) -> list[int]:
        return self._bos + self._tokenize(self._render(text))

    def _tokenize(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    def _decode(self, ids: list[int]) -> str:
        text: Any = self.tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return str(text)

    def _continue(self, text: str) -> list[int]:
        """Return the token ids of `text` right after the prompt."""
        for before in (self._before, "\n"):
            behind = self._tokenize(before)
            joined = self._tokenize(before + text)
            if joined[: len(behind)] == behind:
                return joined[len(behind) :]
            # The tokens of both are joined, as "\n\n" and a word are in some vocabularies; after
            # one line break they are not.
        return self._tokenize(text)


def _find_bos(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """Return the beginning of sequence if the tokenizer adds one and no chat template writes it."""
    bos: int | None = tokenizer.bos_token_id
    if bos is None or tokenizer.chat_template is not None:
        return []
    return [bos] if tokenizer.encode("a")[:1] == [bos] else []
