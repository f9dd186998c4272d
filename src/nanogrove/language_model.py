"""A trained model with its tokenizer, ready to generate text: what `nanogrove.load` returns."""

import math
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import NamedTuple, Unpack, overload

import torch
from torch import Tensor

from nanogrove.data.chat.conversations import Message
from nanogrove.data.chat.encoding import chat_prompt
from nanogrove.data.tokenizer import END_OF_TEXT, Tokenizer
from nanogrove.decoding.loop import Request, Strategy, write
from nanogrove.decoding.reading import pad
from nanogrove.decoding.sampling import Sampler, Transform, record_log_probs, refuse_not_finite
from nanogrove.decoding.steering import TOP_K, model_score, reward_augmented, sequence_score
from nanogrove.decoding.stopping import StopTexts, stop_texts
from nanogrove.decoding.strategies import one_by_one, strategy_for
from nanogrove.decoding.streaming import End, Piece, Step, joined, text_pieces, text_steps
from nanogrove.errors import CheckpointError, PresetError
from nanogrove.evaluate.calibration import load_calibration
from nanogrove.evaluate.reward import Reward, RewardModel, checked_reward, load_reward
from nanogrove.generation import (
    BETA,
    MAX_NEW_TOKENS,
    AnyReward,
    DrawOptions,
    GenerationOptions,
    SteeredOptions,
    checked_sampling,
)
from nanogrove.model.gpt import GPT
from nanogrove.model.heads import Heads
from nanogrove.train.checkpoint import Checkpoint, heads_of, predictor_of, read_checkpoint
from nanogrove.train.precision import WEIGHTS, Choice, Decoding, Weights, decoding


class Continuation(NamedTuple):
    """A text as `generate` gives it, and how sure its model was of each of the N new tokens.

    `tokens` are the new ones, one by one, an end of text and those that wrote a stop text included. `probabilities` are
    the model's own, at its calibrated temperature or 1, whatever was drawn from: cuts and the sampling temperature do
    not change them.
    """

    text: str
    tokens: list[str]
    probabilities: list[float]
    mean_log_probability: float  # nats per token


class LanguageModel:
    """A model, its tokenizer, and the auxiliary heads that trained beside it, if any.

    The model may be a population: an ensemble, which predicts by the mean of its members' probabilities.

    `temperature` is what its logits are to be divided by for calibrated probabilities, 1.0 where it has not been
    calibrated, as `calibrated` says.
    """

    def __init__(
        self, model: GPT, tokenizer: Tokenizer, temperature: float | None = None, heads: Heads | None = None
    ) -> None:
        self.model, self.tokenizer, self.heads = model.eval(), tokenizer, heads
        self.calibrated = temperature is not None
        self.temperature = 1.0 if temperature is None else temperature

    @overload
    def generate(self, prompt: str = "", tokens: int = 100, **options: Unpack[GenerationOptions]) -> str: ...  # type: ignore[overload-overlap]

    @overload
    def generate(self, prompt: Sequence[str], tokens: int = 100, **options: Unpack[GenerationOptions]) -> list[str]: ...

    def generate(
        self, prompt: str | Sequence[str] = "", tokens: int = 100, **options: Unpack[GenerationOptions]
    ) -> str | list[str]:
        """Prompt plus continuation: a string for one prompt, a list for a list, decoded as one batch.

        A text ends at the end-of-text token, before a stop text, or after `tokens` new tokens; an empty prompt starts a
        document.

        Args:
            prompt: A text, or several.
            tokens: New tokens per prompt, at most.
            seed: Equal seeds give equal texts in equal precision; 0 when left out.
            precision: The format of matrix products. `auto`, when left out, takes bfloat16 where the CPU has such
                products and the model is large enough to gain, as the method `precision` says. `int8` rounds weights
                alone, to 255 values for each output.
            calibrated: Multiply the temperature by the model's own.
            stop: A text, or several, before which a continuation ends.
            reward: Steers: of the `top_k` likeliest tokens, 20 when left out, each gets `beta` times the reward of the
                text that ends with it, before the temperature (`decoding/steering.py`). It is a `RewardModel` or the
                run of one, whose numbers are clamped to [0, 1], or a function from texts, prompts included, to numbers.
            beta: What the reward counts, in nats; 5 when left out.
            speculative: The model's multi-token heads draft and the model verifies (`decoding/speculative.py`): texts
                are distributed as without, in fewer calls of the model; greedily they are the same texts.
            lookahead: Search for each token with value and dynamics heads, in so many calls of the model
                (`decoding/lookahead.py`).
            temperature, top_k, top_p, min_p, repetition_penalty, no_repeat_ngram: The settings of `Sampling`.

        Raises PresetError for a setting out of range or two strategies at once, CheckpointError for a model that has
        not been calibrated and should be, one without the heads or a reward model of another vocabulary, and DataError
        for a prompt the vocabulary cannot express.

        >>> model = nanogrove.load("runs/mine")
        >>> model.generate("Once upon", tokens=5, temperature=0.8, seed=1).startswith("Once upon")
        True
        >>> len(model.generate(["One prompt", "or several"], tokens=5))
        2
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        strategy, reward, beta = self._strategy(options)
        texts, _ = self._decode_texts(strategy, prompts, tokens, options, reward, beta)
        return texts[0] if isinstance(prompt, str) else texts

    def chat(self, messages: Sequence[Message], tokens: int = 100, **options: Unpack[GenerationOptions]) -> str:
        """What the assistant answers: the next message of a conversation that ends with one of the user.

        Takes the options of `generate` and raises what that does, and DataError for a model without a chat template,
        for messages that are none, out of order or without text, and for a template that is refused.

        Args:
            messages: Objects of `role`, which is system, user or assistant, and `content`.
            tokens: Tokens of the answer, at most.
            options: Those of `generate`.

        >>> model = nanogrove.load("runs/mine")
        >>> model.chat([{"role": "user", "content": "Hello"}])
        Traceback (most recent call last):
        nanogrove.errors.DataError: this model has no chat template; train one with data.type=chat, or use generate
        """
        prompt = chat_prompt(self.tokenizer, messages)
        strategy, reward, beta = self._strategy(options)
        answers, _ = self._decode(strategy, [prompt.ids], tokens, options, reward, beta, end=prompt.end)
        return answers[0]

    def stream(
        self, prompt: str | Sequence[Message] = "", tokens: int = 100, **options: Unpack[GenerationOptions]
    ) -> Generator[str, None, End | None]:
        """The text that `generate` gives for a prompt, or `chat` for messages, in pieces as they are certain.

        The pieces joined are that text, with every option. To leave the loop, or to close the generator, ends the work
        at once. What may still change waits: half a character, and what a stop text may begin with. Takes and raises
        what `generate` and `chat` do; arguments are checked before the first piece is asked for.

        >>> model = nanogrove.load("runs/mine")
        >>> for piece in model.stream("Once upon", tokens=5):
        ...     print(piece, end="", flush=True)  # doctest: +ELLIPSIS
        Once upon...
        """
        if isinstance(prompt, str):
            return joined(prompt, self.pieces([prompt], tokens, **options))
        return joined("", self.answer_pieces(prompt, tokens, **options))

    def pieces(
        self, prompts: Sequence[str], tokens: int = 100, **options: Unpack[GenerationOptions]
    ) -> Generator[Piece, None, None]:
        """The continuations that `generate` gives for prompts, decoded as one batch, in pieces; see `stream`."""
        return self._pieces([self._prompt(text) for text in prompts], tokens, options)

    def answer_pieces(
        self, messages: Sequence[Message], tokens: int = 100, **options: Unpack[GenerationOptions]
    ) -> Generator[Piece, None, None]:
        """The answer that `chat` gives to messages, in pieces; see `stream`."""
        asked = chat_prompt(self.tokenizer, messages)
        return self._pieces([asked.ids], tokens, options, asked.end)

    def steps(
        self, prompt: str | Sequence[Message] = "", tokens: int = 100, **options: Unpack[SteeredOptions]
    ) -> Generator[Step, None, None]:
        """The text of `stream`, less the prompt, token by token, each with the model's scores of all tokens.

        Takes and raises what `stream` does, without `speculative` and `lookahead`.
        """
        ids, end = (self._prompt(prompt), None) if isinstance(prompt, str) else chat_prompt(self.tokenizer, prompt)
        reward, beta = options.pop("reward", None), options.pop("beta", BETA)
        strategy = strategy_for(self.model, self.heads, {}, steered=reward is not None)
        return text_steps(strategy, self._request([ids], tokens, options, reward, beta, end=end), self.tokenizer)

    def _pieces(
        self, prompts: Sequence[list[int]], tokens: int, options: GenerationOptions, end: int | None = None
    ) -> Generator[Piece, None, None]:
        strategy, reward, beta = self._strategy(options)
        request = self._request(prompts, tokens, options, reward, beta, end=end)
        return text_pieces(strategy, request, self.tokenizer)

    def _strategy(self, options: GenerationOptions) -> tuple[Strategy, AnyReward | None, float]:
        """Takes from the options those that choose how the next tokens are chosen: the strategy, reward and beta."""
        drafts, budget = options.pop("speculative", False), options.pop("lookahead", None)
        reward, beta = options.pop("reward", None), options.pop("beta", BETA)
        asked = {"speculative": drafts or None, "lookahead": budget}
        strategy = one_by_one(self.model)
        if drafts or budget is not None or reward is not None:
            strategy = strategy_for(self.model, self.heads, asked, steered=reward is not None)
        return strategy, reward, beta

    def continuations(
        self, prompts: Sequence[str], tokens: int = 100, **options: Unpack[SteeredOptions]
    ) -> list[Continuation]:
        """The texts that `generate` gives for the same arguments, each with the confidence of its new tokens."""
        if self.model.memory is not None and len(prompts) > 1:
            raise PresetError("confidence: a model with a memory takes one prompt at a time")
        recorder, log_probs_of = record_log_probs(self.temperature if options.get("calibrated") else 1.0)
        reward, beta = options.pop("reward", None), options.pop("beta", BETA)
        texts, new = self._decode_texts(one_by_one(self.model), prompts, tokens, options, reward, beta, recorder)
        continuations = []
        for text, row, scores in zip(texts, new.tolist(), log_probs_of(new), strict=True):
            ids = [token for token in row if token >= 0]
            names = [END_OF_TEXT if token == self.tokenizer.end else self.tokenizer.decode([token]) for token in ids]
            log_probs = scores[: len(ids)]
            continuations.append(Continuation(text, names, log_probs.exp().tolist(), float(log_probs.mean())))
        return continuations

    def best_of(
        self,
        n: int,
        prompts: Sequence[str],
        tokens: int = 100,
        *,
        reward: AnyReward,
        **options: Unpack[DrawOptions],
    ) -> list[str]:
        """For each prompt the text of the highest reward among `n` that `generate` draws, all decoded as one batch.

        Takes and raises what `generate` does; of equal ones the first is taken. Raises PresetError for n < 1.
        """
        if n < 1:
            raise PresetError(f"best of {n}: there is no best of none; give 1 or more")
        rewards, repeated = self._resolve_reward(reward), [prompt for prompt in prompts for _ in range(n)]
        texts, new = self._decode_texts(one_by_one(self.model), repeated, tokens, options)
        if isinstance(rewards, RewardModel):
            ids = [[token for token in row if token >= 0] for row in new.tolist()]
            values = rewards.of_tokens([self._prompt(p) + row for p, row in zip(repeated, ids, strict=True)])
        else:
            values = rewards(texts)
        groups = (range(first, first + n) for first in range(0, len(repeated), n))
        return [texts[max(group, key=values.__getitem__)] for group in groups]

    def _decode_texts(
        self,
        strategy: Strategy,
        prompts: Sequence[str],
        tokens: int,
        options: DrawOptions,
        reward: AnyReward | None = None,
        beta: float = BETA,
        *recorders: Transform,
    ) -> tuple[list[str], Tensor]:
        """Each prompt with its continuation, and the new tokens; takes what `_decode` takes, and prompts as texts."""
        ids = [self._prompt(text) for text in prompts]
        continuations, new = self._decode(strategy, ids, tokens, options, reward, beta, *recorders)
        return [prompt + text for prompt, text in zip(prompts, continuations, strict=True)], new

    def _decode(
        self,
        strategy: Strategy,
        prompts: Sequence[list[int]],
        tokens: int,
        options: DrawOptions,
        reward: AnyReward | None = None,
        beta: float = BETA,
        *recorders: Transform,
        end: int | None = None,
    ) -> tuple[list[str], Tensor]:
        """The continuation of each prompt, and the new tokens `[R, tokens]`, −1 after the end or a stop text.

        Takes a strategy, and what `_request` takes.
        """
        request = self._request(prompts, tokens, options, reward, beta, *recorders, end=end)
        return self._continuations(write(strategy, request), request.stop_texts)

    def _request(
        self,
        prompts: Sequence[list[int]],
        tokens: int,
        options: DrawOptions,
        reward: AnyReward | None = None,
        beta: float = BETA,
        *recorders: Transform,
        end: int | None = None,
    ) -> Request:
        """What is to be written, all of it checked.

        Args:
            prompts: Their tokens.
            tokens: New tokens per prompt, at most.
            options: Of `generate`, less those that chose the strategy.
            reward: As `generate` takes it.
            beta: As `generate` takes it.
            recorders: Transforms that see the logits as the model computed them, and change nothing.
            end: A token that ends a continuation, as the end of text does.
        """
        seed, precision = options.pop("seed", 0), options.pop("precision", "auto")
        calibrated, texts = options.pop("calibrated", False), stop_texts(options.pop("stop", ()), self.tokenizer.decode)
        settings = checked_sampling(options)
        if not 0 <= tokens <= MAX_NEW_TOKENS:
            raise PresetError(f"tokens: must be {MAX_NEW_TOKENS:,} or less, and at least 0; {tokens} were asked for")
        scale = self._calibrated_temperature() if calibrated else 1.0
        settings = settings.model_copy(update={"temperature": settings.temperature * scale})
        device = self.model.embed.weight.device
        rows, lengths = pad(prompts, device)
        steering: list[Transform] = []
        judges: list[tuple[GPT, int]] = []
        if reward is not None:
            k = settings.top_k or TOP_K
            settings = settings.model_copy(update={"top_k": None})  # the cut is part of steering
            transform, judge = self._steering(reward, beta, k)
            steering.append(transform)
            judges = [] if judge is None else [(judge, k * len(rows))]
        transforms = [refuse_not_finite, *recorders, *settings.transforms(steering)]
        return Request(
            prompts=rows,
            lengths=lengths,
            new_tokens=tokens,
            sampler=Sampler(transforms, settings.temperature, torch.Generator(device).manual_seed(seed)),
            stop=[self.tokenizer.end] if end is None else [self.tokenizer.end, end],
            stop_texts=texts,
            dtype=WEIGHTS[self.precision(precision).format],
            judges=judges,
        )

    def _calibrated_temperature(self) -> float:
        """The temperature that calibration found. Raises CheckpointError where there was none."""
        if not self.calibrated:
            raise CheckpointError(
                "this model has no temperature of its own yet; run `nanogrove evaluate RUN --calibrate` first"
            )
        return self.temperature

    def _continuations(self, new: Tensor, stops: StopTexts | None) -> tuple[list[str], Tensor]:
        """The texts of new tokens `[R, T]`, each up to a stop text, and these tokens, −1 after its end."""
        written = [[token for token in row if token >= 0] for row in new.tolist()]
        if stops is None:
            return [self.tokenizer.decode(ids) for ids in written], new
        kept = [stops.cut(ids) for ids in written]
        ends = torch.tensor([count for count, _ in kept], device=new.device)[:, None]
        positions = torch.arange(new.shape[1], device=new.device)
        return [text for _, text in kept], new.masked_fill(positions >= ends, -1)

    def _steering(self, reward: AnyReward, beta: float, k: int) -> tuple[Transform, GPT | None]:
        """The transform by which `reward` steers the `k` likeliest tokens, and the reward model if there is one."""
        if not math.isfinite(beta):
            raise PresetError(f"beta: must be a finite number, and {beta} was given")
        resolved = self._resolve_reward(reward)
        if isinstance(resolved, RewardModel):
            return reward_augmented(model_score(resolved.model), beta, k), resolved.model
        score = sequence_score(lambda rows: resolved([self.tokenizer.decode(row) for row in rows]))
        return reward_augmented(score, beta, k), None

    def _prompt(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text)) or [self.tokenizer.end]

    def _resolve_reward(self, reward: AnyReward) -> RewardModel | Reward:
        """The reward model that is given or lies in a run, or a function that is checked as it is used."""
        resolved = load_reward(reward, self.model.embed.weight.device) if isinstance(reward, (str, Path)) else reward
        if not isinstance(resolved, RewardModel):
            return checked_reward(resolved, getattr(resolved, "__name__", "the reward"))
        sizes = (resolved.model.embed.weight.shape[0], self.model.embed.weight.shape[-2])
        if resolved.tokenizer.to_json() != self.tokenizer.to_json() or sizes[0] < sizes[1]:
            where = f"{reward}: this reward model" if isinstance(reward, (str, Path)) else "the reward model"
            raise CheckpointError(
                f"{where} has another vocabulary than the model it is to steer; train one with "
                "data.tokenizer=RUN/checkpoints/best/tokenizer.json"
            )
        return resolved

    def precision(self, asked: Decoding = "auto") -> Choice[Weights]:
        """The format that `generate` multiplies in when `asked` is given, and why. Raises PresetError as it does."""
        return decoding(self.model, asked)


def from_checkpoint(checkpoint: Checkpoint, device: str | torch.device = "cpu") -> LanguageModel:
    """The model a checkpoint holds, with its temperature where it was calibrated.

    Raises CheckpointError for one that predicts no tokens.
    """
    if checkpoint.config.scalar:
        raise CheckpointError(
            f"{checkpoint.folder}: is a reward model and writes nothing; give it as the reward of a model that does"
        )
    calibration = load_calibration(checkpoint)
    temperature = None if calibration is None else calibration["temperature"]
    model, heads = predictor_of(checkpoint, device), heads_of(checkpoint, device)
    return LanguageModel(model, checkpoint.tokenizer, temperature, heads)


def load(path: str | Path, device: str | torch.device = "cpu") -> LanguageModel:
    """The best model of a run folder, or that of a checkpoint folder, with its temperature where it was calibrated.

    Of a run of `method=ensemble` it is the ensemble, whose members predict together; its student is the checkpoint
    `RUN/checkpoints/student`.

    No code in either is ever run. Raises CheckpointError, in one line, when there is none or it is damaged.

    >>> model = nanogrove.load("runs/mine")
    >>> model.calibrated
    False
    """
    return from_checkpoint(read_checkpoint(Path(path)), device)
