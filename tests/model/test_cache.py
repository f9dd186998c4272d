"""A cache equals lists of tokens, one a row, after any sequence of readings, of tokens taken back, of candidates."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nanogrove.model.cache import Cache, Placement, first_placement
from nanogrove.model.coupled import CoupledIds

LAWS = settings(derandomize=True, database=None, deadline=None, max_examples=150)
LAYERS, HEADS, WIDTH, MARK, VOCABULARY = 2, 2, 3, 0, 4
RUN, START, END = (1,), 3, 2


class Lists:
    """A cache beside the lists that it must equal. Each token read has a number that its keys and values spell."""

    def __init__(self, prompts: list[list[int]], mark: int | None, room: int) -> None:
        self.rows: list[list[tuple[int, int]]] = [[] for _ in prompts]  # tokens and their numbers
        self.mark, self.count = mark, 0
        coupled = CoupledIds(VOCABULARY + 1, RUN, [START], [END], 0)
        like = torch.zeros(1, dtype=torch.float64)
        self.cache = Cache(LAYERS, len(prompts), HEADS, room, WIDTH, like, mark, coupled)
        longest = max(map(len, prompts))
        tokens = torch.tensor([[*prompt, *[VOCABULARY] * (longest - len(prompt))] for prompt in prompts])
        placement = first_placement(tokens, mark, like, coupled)
        assert placement.previous is None
        assert placement.ids is not None
        for row, prompt in enumerate(prompts):
            assert placement.ids[row, : len(prompt)].tolist() == [
                coupled_id(prompt[: n + 1]) for n in range(len(prompt))
            ]
        if placement.mask is not None:
            for row, prompt in enumerate(prompts):
                for n in range(len(prompt)):
                    assert seen(placement.mask[row, 0, n] == 0) == [*range(self.begin(prompt[: n + 1]), n + 1)]
        numbers = self.write(tokens)
        self.cache.advance(tokens, torch.tensor([len(prompt) for prompt in prompts]))
        for row, prompt in enumerate(prompts):
            self.rows[row] = list(zip(prompt, numbers[row].tolist(), strict=False))
        self.check()

    def begin(self, tokens: list[int]) -> int:
        """Where the document of the last of a row's tokens begins."""
        return max((n for n, token in enumerate(tokens) if token == self.mark), default=0)

    def write(self, tokens: Tensor) -> Tensor:
        """Stores keys and values of new tokens in every layer; their numbers, `[R, T]`."""
        numbers = torch.arange(tokens.numel()).view_as(tokens) + self.count + 1
        self.count += tokens.numel()
        for layer in range(LAYERS):
            keys = spelled(numbers, layer)
            stored = self.cache.write(layer, keys, -keys)
            assert torch.equal(stored[0], -stored[1])
        return numbers

    def placed(self, tokens: Tensor, candidates: bool = False) -> None:
        """Checks where new tokens stand, and what each sees."""
        placement: Placement = self.cache.place(tokens, candidates)
        assert placement.previous is not None
        assert placement.previous.tolist() == [row[-1][0] for row in self.rows]
        assert placement.ids is not None
        positions, ids = placement.positions.expand(tokens.shape).tolist(), placement.ids.tolist()
        for row, known in enumerate(self.rows):
            before, new = [token for token, _ in known], tokens[row].tolist()
            for n, token in enumerate(new):
                read = [*before, token] if candidates else [*before, *new[: n + 1]]
                assert positions[row][n] == len(read) - 1
                assert ids[row][n] == coupled_id(read)
                stored = len(before) + n  # where it lies, which for a candidate is not its position
                visible = [*range(min(self.begin(read), len(before)), len(read) - 1), stored]
                if candidates and token == self.mark:
                    visible = [stored]
                elif not candidates:
                    visible = [*range(self.begin(read), stored + 1)]
                mask = placement.mask
                assert visible == (seen(mask[row, 0, n]) if mask is not None else [*range(len(before) + 1)])

    def read(self, tokens: Tensor) -> None:
        """Reads tokens in every row."""
        self.placed(tokens)
        numbers = self.write(tokens)
        self.cache.advance(tokens)
        for row, known in enumerate(self.rows):
            known += zip(tokens[row].tolist(), numbers[row].tolist(), strict=True)
        self.check()

    def keep(self, tokens: Tensor, counts: list[int]) -> None:
        """Takes back all but the first of the tokens read last."""
        self.cache.keep(tokens, torch.tensor(counts))
        for known, count in zip(self.rows, counts, strict=True):
            del known[len(known) - tokens.shape[1] + count :]
        self.check()

    def take(self, tokens: Tensor, index: list[int]) -> None:
        """Reads candidates for one position and takes one in each row."""
        self.placed(tokens, candidates=True)
        numbers = self.write(tokens)
        self.cache.take(torch.tensor(index), tokens.gather(1, torch.tensor(index)[:, None])[:, 0])
        for row, n in enumerate(index):
            self.rows[row].append((int(tokens[row, n]), int(numbers[row, n])))
        self.check()

    def drop(self, row: int) -> None:
        """Forgets a row; the last one takes its number."""
        self.cache.drop(row)
        last = self.rows.pop()
        if row < len(self.rows):
            self.rows[row] = last
        self.check()

    def put(self, row: int, prompt: list[int]) -> None:
        """Takes over a row that was read alone."""
        other = Lists([prompt], self.mark, room=len(prompt))
        self.cache.put(row, other.cache)
        self.rows[row : row + 1] = other.rows
        self.check()

    def check(self) -> None:
        """The cache holds what the lists hold."""
        lengths = [len(row) for row in self.rows]
        assert self.cache.lengths.tolist() == lengths
        assert self.cache.longest == max(lengths, default=0)
        assert self.cache.ragged == (len(set(lengths)) > 1)
        assert self.cache.last.tolist() == [row[-1][0] for row in self.rows]
        if self.mark is not None:
            assert self.cache.start.tolist() == [self.begin([token for token, _ in row]) for row in self.rows]
        for layer in range(LAYERS):
            for row, known in enumerate(self.rows):
                keys = spelled(torch.tensor([[number for _, number in known]]), layer)[0]
                assert torch.equal(self.cache.keys[layer, row, :, : len(known)], keys)
                assert torch.equal(self.cache.values[layer, row, :, : len(known)], -keys)


def coupled_id(tokens: list[int]) -> int:
    """The coupled position of the last of a row's tokens: its place among the tokens that form its run."""
    if tokens[-1] == START:
        return 1
    if tokens[-1] == END:
        return 1 + (coupled_id(tokens[:-1]) if tokens[:-1] and tokens[-2] != END else 0)
    place = 0
    for token in reversed(tokens):
        if token not in RUN:
            return place + (token == START and place > 0)
        place += 1
    return place


def spelled(numbers: Tensor, layer: int) -> Tensor:
    """Keys `[R, G, T, D]` that say which tokens `numbers [R, T]` they are of, in which layer, head and dimension."""
    place = torch.arange(HEADS * WIDTH, dtype=torch.float64).view(HEADS, 1, WIDTH) + 100 * layer
    return 1000.0 * numbers[:, None, :, None] + place


def seen(mask: Tensor) -> list[int]:
    """The positions where a mask is true."""
    return [int(n) for n in mask.nonzero()[:, 0]]


def drawn(data: st.DataObject, rows: int, count: int) -> Tensor:
    token = st.integers(0, VOCABULARY - 1)
    row = st.lists(token, min_size=count, max_size=count)
    return torch.tensor(data.draw(st.lists(row, min_size=rows, max_size=rows)))


@LAWS
@given(data=st.data(), mark=st.sampled_from([None, MARK]))
def test_a_cache_equals_lists_of_tokens(data: st.DataObject, mark: int | None) -> None:
    prompt = st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=5)
    prompts = data.draw(st.lists(prompt, min_size=1, max_size=3))
    operations = data.draw(st.lists(st.sampled_from(["read", "keep", "take", "drop and put", "replace"]), max_size=6))
    lists = Lists(prompts, mark, room=5 + 4 * len(operations) + 4)
    for operation in operations:
        if operation in ("drop and put", "replace"):
            row, new = data.draw(st.integers(0, len(prompts) - 1)), data.draw(prompt)
            if operation == "drop and put":
                lists.drop(row)
                row = len(lists.rows)
            lists.put(row, new)
            continue
        tokens = drawn(data, len(prompts), data.draw(st.integers(1, 4)))
        if operation == "take":
            last = tokens.shape[1] - 1
            lists.take(tokens, [data.draw(st.integers(0, last)) for _ in prompts])
        else:
            lists.read(tokens)
        if operation == "keep":
            lists.keep(tokens, [data.draw(st.integers(0, tokens.shape[1])) for _ in prompts])
