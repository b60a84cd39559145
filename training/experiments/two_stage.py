"""Next-token prediction in two stages: a change of training at a step that is exactly known.

Every token has a token that follows it (a collocation), and every sentence one that matters: its
last token, the query, ranks the others, and what follows is the successor of the highest ranked. A
layer of attention over one-hot tokens learns the successors first; then its values are frozen, and
its attention learns the rankings from whole sentences (Huang et al. 2024, arXiv:2409.17335, by
normalised gradients from zero; here they are of batches, and of sentences drawn as above).
"""

import os
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from training.experiments.config import ExperimentConfig
from training.hooks import MetricHook


@dataclass(frozen=True)
class Config(ExperimentConfig):
    """The setting of the two stages.

    Attributes
    ----------
    tokens, length
        Size of the vocabulary, and distinct tokens in a sentence.
    train_sentences, test_sentences
        Number of sentences, drawn once per seed.
    value_lr, attention_lr
        Lengths of a step of the first and of the second stage: the gradient is normalised.
    batch
        Examples of every step, drawn with replacement.
    switch
        The last step of the first stage: the row after it is the first that the second stage moved.
    steps, every
        Steps to train, both stages together, and from row to row.
    """

    tokens: int = 20
    length: int = 8
    train_sentences: int = 200
    test_sentences: int = 1000
    value_lr: float = 0.2
    attention_lr: float = 0.1
    batch: int = 16
    switch: int = 300
    steps: int = 900
    every: int = 5


def train(seed: int, directory: str | os.PathLike[str], config: Config) -> None:
    """Train one layer and log its run.

    ``train/loss`` and ``train/acc`` are of what the stage trains on: collocations, then sentences;
    ``test/loss`` and ``test/acc`` of unseen sentences throughout. ``attention/optimal`` is the mean
    attention of the training sentences to the token that matters.

    Parameters
    ----------
    seed
        Seeds the successors, the rankings, the sentences and the batches; weights begin at zero.
    directory
        The run directory.
    config
        The setting.
    """
    generator = torch.Generator().manual_seed(seed)
    language = Language(config.tokens, generator)
    words = torch.arange(config.tokens)[:, None]
    sentences, unseen = (
        torch.rand(count, config.tokens, generator=generator).argsort()[:, : config.length]
        for count in (config.train_sentences, config.test_sentences)
    )
    model = Layer(config.tokens)
    stages = (
        Stage(words, model.value, config.value_lr),
        Stage(sentences, model.attention, config.attention_lr),
    )
    optimizer = torch.optim.SGD(model.parameters())
    with MetricHook(
        model, optimizer, directory, seed=seed, config=config.record(), every=config.every
    ) as hook:
        hook.log(_evaluate(model, language, words, sentences, unseen), epoch=0)
        for step in range(1, config.steps + 1):
            stage = stages[step > config.switch]
            drawn = torch.randint(len(stage.data), (config.batch,), generator=generator)
            stage.take_step(model, language, optimizer, stage.data[drawn])
            if step % config.every == 0:
                hook.log(_evaluate(model, language, stage.data, sentences, unseen), epoch=step)


class Language:
    """What follows what: a successor of every token, and a ranking of all tokens for every query.

    Parameters
    ----------
    tokens
        Size of the vocabulary.
    generator
        Draws both.
    """

    def __init__(self, tokens: int, generator: torch.Generator) -> None:
        self.successor = torch.randperm(tokens, generator=generator)
        self.rank = torch.rand(tokens, tokens, generator=generator)

    def optimal(self, sentences: Tensor) -> Tensor:
        """Return the place of the token that matters, (count, 1), in sentences (count, length)."""
        return self.rank[sentences[:, -1:], sentences].argmax(dim=1, keepdim=True)

    def answers(self, sentences: Tensor) -> Tensor:
        """Return what follows each sentence, (count,)."""
        return self.successor[sentences.gather(1, self.optimal(sentences)).squeeze(1)]


class Layer(nn.Module):
    """Attention over one-hot tokens, without positions; all weights begin at zero.

    Parameters
    ----------
    tokens
        Size of the vocabulary.
    """

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(tokens, tokens))  # from token to logits
        self.attention = nn.Parameter(torch.zeros(tokens, tokens))  # from query to keys

    def attend(self, sentences: Tensor) -> Tensor:
        """Return the attention of the last token to all, (count, length)."""
        return self.attention[sentences[:, -1:], sentences].softmax(dim=1)

    def forward(self, sentences: Tensor) -> Tensor:
        """Return the logits of what follows, (count, tokens)."""
        return torch.einsum("nl,nlv->nv", self.attend(sentences), self.value[sentences])


class Stage(NamedTuple):
    """A stage of the training.

    Attributes
    ----------
    data
        Sentences, (count, length).
    weight
        The weight that is trained; the others are frozen.
    lr
        Length of its steps.
    """

    data: Tensor
    weight: nn.Parameter
    lr: float

    def take_step(
        self, model: Layer, language: Language, optimizer: torch.optim.SGD, batch: Tensor
    ) -> None:
        """Step along the normalised gradient of some sentences."""
        loss = cross_entropy(model(batch), language.answers(batch))
        optimizer.zero_grad()
        (self.weight.grad,) = torch.autograd.grad(loss, [self.weight])
        # the rate is normalised, not the gradient, whose norm is worth logging
        optimizer.param_groups[0]["lr"] = self.lr / float(self.weight.grad.norm())
        optimizer.step()


@torch.no_grad()
def _evaluate(
    model: Layer, language: Language, trained: Tensor, sentences: Tensor, unseen: Tensor
) -> dict[str, Tensor]:
    measures = {}
    for part, data in (("train", trained), ("test", unseen)):
        logits, answers = model(data), language.answers(data)
        measures[f"{part}/loss"] = cross_entropy(logits, answers)
        measures[f"{part}/acc"] = (logits.argmax(dim=1) == answers).float().mean()
    attention = model.attend(sentences).gather(1, language.optimal(sentences))
    return measures | {"attention/optimal": attention.mean()}
