"""Tokens and masks of conversations are those of `trl`; prompts for answers, and what is refused there."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Backend

from nanogrove.corpora import make_corpus
from nanogrove.data.chat.config import ChatConfig
from nanogrove.data.chat.corpus import ChatCorpus
from nanogrove.data.chat.encoding import ChatPrompts, chat_prompt
from nanogrove.data.chat.template import PLAIN, Renderer
from nanogrove.data.tokenizer import Tokenizer, byte_tokenizer
from nanogrove.errors import DataError

END = "<|endoftext|>"
SYSTEM = {"role": "system", "content": "Be brief."}
TALKS = [
    [*([SYSTEM] if n % 2 else []), *talk]
    for n in range(8)
    for talk in [
        [
            message
            for turn in range(1 + n % 3)
            for message in (
                {"role": "user", "content": f"What is {n} and {turn}?  "},
                {"role": "assistant", "content": f" It's {n * turn}, “naïve” 😀\n" * (1 + n % 2)},
            )
        ]
    ]
]
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\n' }}"
    "{% if message.role == 'assistant' %}{% generation %}{{ message.content }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ message.content | trim }}<|im_end|>{% endif %}{{ '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def conversations(folder: Path, block_size: int, **more: Any) -> ChatCorpus:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in TALKS))
    config = ChatConfig(**{"type": "chat", "path": str(path), "packed": False, "vocab_size": 300, **more})
    corpus = make_corpus(config, block_size, 4, 0)
    assert isinstance(corpus, ChatCorpus)
    return corpus


def their_tokenizer(tokenizer: Tokenizer) -> Any:
    from transformers import PreTrainedTokenizerFast

    backend = Backend.from_str(tokenizer.to_json())
    theirs = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END, pad_token=END)
    theirs.chat_template = tokenizer.chat_template
    return theirs


def tiny_model(vocab_size: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes: dict[str, Any] = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocab_size, **sizes))


@pytest.mark.parametrize("template", [PLAIN, CHATML])
@pytest.mark.parametrize("tokenizer", ["char", "byte", "bpe"])
def test_tokens_and_masks_are_those_of_transformers(template: str, tokenizer: str, tmp_path: Path) -> None:
    (tmp_path / "chat.jinja").write_text(template)
    corpus = conversations(tmp_path, 400, template=str(tmp_path / "chat.jinja"), tokenizer=tokenizer)
    theirs = their_tokenizer(corpus.tokenizer).apply_chat_template(
        TALKS, return_dict=True, return_assistant_tokens_mask=True
    )
    assert [row.ids.tolist() for row in corpus.rows] == theirs["input_ids"]
    assert [row.scored.tolist() for row in corpus.rows] == [list(map(bool, mask)) for mask in theirs["assistant_masks"]]


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:`(is_)?gradient_checkpointing` is deprecated and will be removed in v6:FutureWarning"
)
@pytest.mark.parametrize("template", [PLAIN, CHATML])
@pytest.mark.parametrize("tokenizer", ["byte", "bpe"])
def test_tokens_and_masks_are_those_of_trl(template: str, tokenizer: str, tmp_path: Path) -> None:
    """Also of conversations longer than the context."""
    pytest.importorskip("trl")
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    (tmp_path / "chat.jinja").write_text(template)
    size = 40
    corpus = conversations(tmp_path, size, template=str(tmp_path / "chat.jinja"), tokenizer=tokenizer)
    trainer = SFTTrainer(
        tiny_model(corpus.tokenizer.vocab_size),
        SFTConfig(
            output_dir=str(tmp_path / "trl"),
            use_cpu=True,
            report_to="none",
            bf16=False,
            gradient_checkpointing=False,
            assistant_only_loss=True,
            max_length=size + 1,
        ),
        train_dataset=Dataset.from_list([{"messages": talk} for talk in TALKS]),
        processing_class=their_tokenizer(corpus.tokenizer),
    )
    rows: Any = trainer.train_dataset
    theirs = trainer.data_collator(list(rows))  # it leaves out what has nothing to score, too
    ours = corpus.batch_of([[n] for n in range(len(corpus.rows))])
    assert corpus.cut > 0
    assert theirs["input_ids"][:, 1:].equal(ours.targets)
    assert theirs["input_ids"][:, :-1].equal(ours.tokens)
    assert theirs["labels"][:, 1:].equal(ours.targets.masked_fill(~ours.mask, -100))


def test_the_prompt_for_an_answer() -> None:
    tokenizer = byte_tokenizer().for_chat(PLAIN, ["<|user|>", "<|assistant|>", "<|system|>", "<|end|>"])
    prompt = chat_prompt(tokenizer, [{"role": "user", "content": "Hi"}])
    assert tokenizer.backend.decode(prompt.ids, skip_special_tokens=False) == "<|user|>Hi<|end|><|assistant|>"
    assert tokenizer.backend.id_to_token(prompt.end) == "<|end|>"
    assert tokenizer.decode(prompt.ids) == "Hi"
    assert len(tokenizer.encode("<|user|>")) == 8, "a text that spells a special token does not write one"


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([], "chat: an empty conversation"),
        ([{"role": "assistant", "content": "Hi"}], "chat: roles out of order: message 1 is the assistant's"),
        ([*TALKS[0]], "chat: the last message is the assistant's; end with one of the user"),
        ([{"role": "system", "content": "Hi"}], "chat: the last message is the system's; end with one of the user"),
        ([{"role": "user", "content": "<|end|>"}], r"chat: a message spells the special token <\|end\|>"),
        ([{"role": "user"}], "chat: not a list of messages"),
    ],
)
def test_messages_that_nobody_can_answer(messages: Any, problem: str) -> None:
    tokenizer = byte_tokenizer().for_chat(PLAIN, ["<|user|>", "<|assistant|>", "<|system|>", "<|end|>"])
    with pytest.raises(DataError, match=f"^{problem}"):
        chat_prompt(tokenizer, messages)


def test_a_model_without_a_template_is_refused() -> None:
    with pytest.raises(DataError, match="this model has no chat template; train one with"):
        chat_prompt(byte_tokenizer(), [{"role": "user", "content": "Hi"}])


def test_many_prompts_take_one_process_and_one_that_a_conversation_ends_is_begun_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    starts, start = [], Renderer._start

    def counted(renderer: Renderer) -> Any:
        starts.append(renderer)
        return start(renderer)

    monkeypatch.setattr(Renderer, "_start", counted)
    template = f"{CHATML}{{% if messages[0].content == 'x' %}}{{{{ nothing.at.all }}}}{{% endif %}}"
    tokenizer = byte_tokenizer().for_chat(template, ["<|im_start|>", "<|im_end|>"])
    with closing(ChatPrompts(tokenizer)) as prompts:
        first = prompts.prompt([{"role": "user", "content": "a"}])
        assert prompts.prompt([{"role": "user", "content": "a"}]) == first
        assert len(starts) == 1
        with pytest.raises(DataError, match="this chat template is refused"):
            prompts.prompt([{"role": "user", "content": "x"}])
        assert prompts.prompt([{"role": "user", "content": "a"}]) == first
        assert len(starts) == 2
