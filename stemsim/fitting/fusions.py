"""Nonlinear fusions fitted to the train parts of all splits at once.

Every split's fusion starts as the best linear one on its train part, with the penalty that leave-one-out chooses, and
moves away from it by Adam on the full batch. The objective is

    mean loss + (alpha / n) |w|^2 + roughness

The number of steps is chosen by cross-validation within the train part. Step 0 is the linear model, so early stopping
is a shrinkage towards it (Yao, Rosasco and Caponnetto, "On early stopping in gradient descent learning", 2007); the
first step is taken whose held-out loss is within one standard error of the least (Breiman et al., "Classification and
regression trees", 1984, section 3.4.3). The test part has no influence on any of this.

The parameters of all splits and of all inner folds are stacked and differentiated together (`torch.func`): the
objectives share no parameter, so that Adam on their sum is Adam on each.
"""

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Final, cast

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from stemsim.errors import ConfigError, SplitError
from stemsim.evaluation import ALPHAS, SplitFits, Splits
from stemsim.evaluation.crossval import ridge_on_train
from stemsim.fitting.votes import fit_weights
from stemsim.fusion import Fusion, StemPairs, WeightedFusion
from stemsim.losses import Loss, SquaredError
from stemsim.regression import fit_ridge
from stemsim.triplets import EmbeddedTriplets

MakeFusion = Callable[[list[str]], Fusion]
"""Makes a fusion from a stem layout, such as the class itself."""

_State = dict[str, Tensor]
_PREFIX: Final = "fusion."
_ELEMENTS_AT_ONCE: Final = 50_000  # of (model, triplet): the memory needed is a few dozen times that
_FREED_ELEMENTS: Final = 2**22 - 2**12  # just below 32 MB, which is glibc's limit


@dataclass(frozen=True, slots=True)
class FitSettings:
    """Settings of a fit of nonlinear fusions.

    Attributes:
        steps: Largest number of steps of Adam.
        learning_rate: Learning rate of Adam.
        folds: Inner folds that choose the number of steps; 0 takes all steps.
        standard_errors: The first step is taken whose held-out loss is at most this many standard errors above the
            least.
        seed: Seed of the inner folds.
    """

    steps: int = 60
    learning_rate: float = 0.05
    folds: int = 4
    standard_errors: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Verify ranges."""
        counts = self.steps >= 0 and self.folds >= 0 and self.folds != 1
        if not counts or not self.learning_rate > 0.0 or not self.standard_errors >= 0.0:
            raise ConfigError(
                "A fit needs at least 0 steps, 0 folds or at least 2, a learning rate above 0, and at least 0 standard "
                f"errors; got {self}."
            )


@dataclass(frozen=True, slots=True, eq=False)
class FusionFits:
    """One kind of fusion fitted to the train part of every split."""

    preference: Tensor  # (split, triplet) prediction of each split's fusion for every triplet
    state: dict[str, Tensor]  # stacked parameters and buffers by name, (split, ...)
    stopped_at: Tensor  # (split,) the step that was kept
    linear: Tensor  # (split, stem) weights of the linear fusion that each fit starts from
    alphas: Tensor  # (split,) ridge penalties of these weights


@dataclass(frozen=True, slots=True)
class FusionModel:
    """A nonlinear fusion as a model of a cross-validation; a `stemsim.evaluation.SplitModel`.

    Attributes:
        make: Makes the fusion from the stem layout.
        alphas: Ridge penalties of the weights to choose from.
        settings: Settings of the fit.
        loss: Loss to minimise.
        start: Fit of the same fusion to start from instead of the linear one, see `pretrain`. The squared distance from
            it then replaces the L2 term and the roughness.
        progress: Show a progress bar.
    """

    name: str
    make: MakeFusion
    alphas: Sequence[float] = ALPHAS
    settings: FitSettings = FitSettings()
    loss: Loss = field(default_factory=SquaredError)
    start: FusionFits | None = None
    progress: bool = False

    def fit(self, embedded: EmbeddedTriplets, splits: Splits) -> SplitFits:
        """Fit the fusion to the train part of every split; inner folds are grouped where the splits are."""
        groups = torch.from_numpy(embedded.triplets.track_ids[:, 0]) if splits.kind == "grouped" else None
        known = self.start is None and isinstance(self.loss, SquaredError)
        linear = ridge_on_train(embedded, splits, tuple(self.alphas))[1:] if known else None
        fits = fit_fusions(self, embedded, torch.from_numpy(splits.train), groups=groups, linear=linear)
        return SplitFits(fits.preference.numpy(), alphas=fits.alphas.numpy())


def fit_fusions(
    model: FusionModel,
    embedded: EmbeddedTriplets,
    train: Tensor,
    *,
    groups: Tensor | None = None,
    linear: tuple[Tensor, Tensor] | None = None,
) -> FusionFits:
    """Fit a fusion to the majorities on the train part of every split.

    Args:
        model: The fusion, with the settings of the fit.
        embedded: The triplets.
        train: `(split, triplet)` True where a triplet is trained on.
        groups: `(triplet,)` numbers; triplets with one number are in one inner fold. Default: all are separate.
        linear: Weights `(split, stem)` and penalty `(split,)` of the best linear fusion on every train part, if they
            are known already.

    Raises:
        ConfigError: If the train parts have a wrong shape, or the fusion cannot start from stem weights.
        SplitError: If a train part has too few triplets for the inner folds.
    """
    rule, triplets = model.settings, len(embedded)
    if train.dim() != 2 or train.shape[1] != triplets or train.dtype != torch.bool:  # noqa: PLR2004
        raise ConfigError(
            f"Expected train parts (split, {triplets}) of bool; got {tuple(train.shape)} of {train.dtype}."
        )
    fewest, needed = int(train.sum(dim=1).min()) if len(train) else 0, max(1, 2 * rule.folds)
    if fewest < needed:
        raise SplitError(
            f"A fit needs at least one split, with {needed} triplets in its train part: two for each inner fold; got "
            f"{len(train)} splits, with {fewest} triplets in the smallest. Use more triplets, or fewer folds "
            "(FitSettings.folds)."
        )
    problem = _Problem(model, embedded)
    best, alphas = problem.best_linear(train.double()) if linear is None else linear
    inner = _inner_folds(train, rule, groups)
    at_once = max(1, _ELEMENTS_AT_ONCE // (triplets * max(1, rule.folds)))
    # glibc keeps freed memory up to twice the size of the largest block freed so far. Without a large one, each step
    # would return its memory to the kernel and have it cleared again, which took a tenth of the time.
    torch.empty(_FREED_ELEMENTS, dtype=torch.float64)
    parts = []
    with Progress(console=Console(stderr=True), disable=not model.progress) as bar:
        shown = bar.add_task("Fitting fusions", total=len(train))
        for rows in torch.split(torch.arange(len(train)), at_once):
            parts.append(problem.fit(train[rows].double(), inner[rows], best[rows], alphas[rows]))
            bar.advance(shown, len(rows))
    preference, states, stopped_at = zip(*parts, strict=True)
    state = {name: torch.cat([one[name] for one in states]) for name in states[0]}
    return FusionFits(torch.cat(preference), state, torch.cat(stopped_at), best, alphas)


def ridge_towards(
    prior: Tensor, deltas: Tensor, target: Tensor, counts: Tensor, alphas: Sequence[float] | Tensor = ALPHAS
) -> tuple[Tensor, Tensor]:
    """Fit stem weights that shrink towards prior weights, up to their scale, to every subset of the triplets.

    The prior p gives the ratios of the weights, and not their scale. The weights minimise

        |D w - y|^2 + alpha min_s |w - s p|^2  =  |D w - y|^2 + alpha w^T R w,      R = I - p p^T / |p|^2

    An infinite alpha gives s p with the best s; alpha = 0 is ordinary least squares.

    Args:
        prior: `(stem,)` weights to shrink towards.
        deltas: `(triplet, stem)` stem features.
        target: `(triplet,)` preferences.
        counts: `(subset, triplet)` weight of each triplet in each subset.
        alphas: Penalties to choose from by leave-one-out.

    Returns:
        Weights `(subset, stem)` and penalties `(subset,)`.

    Raises:
        ConfigError: If the prior is not one finite weight for each stem, or all are 0, or a penalty is out of range.
    """
    stems = deltas.shape[1]
    if prior.shape != (stems,) or not bool(torch.isfinite(prior).all()) or not bool(prior.any()):
        raise ConfigError(
            f"A prior needs one finite weight for each of {stems} stems, not all 0; got {prior.tolist()}."
        )
    direction = prior.double() / prior.double().norm()
    across = torch.eye(stems, dtype=torch.float64) - torch.outer(direction, direction)
    return fit_ridge(deltas, target, alphas, counts=counts, penalty=across).best()


class _Problem:
    """Common parts of the fits of all splits: an untrained fusion, the triplets, and the fit to start from, if any."""

    def __init__(self, model: FusionModel, embedded: EmbeddedTriplets) -> None:
        self.model = model
        self.embedded = embedded
        self.target = embedded.target()
        self.fusion = model.make(list(embedded.stems))
        x, a, b = embedded.roles()
        self.pairs = StemPairs.of(x, a), StemPairs.of(x, b)
        self.first: Tensor | None = None  # what the fit to start from predicts, (triplet,)
        if model.start is not None:
            if not isinstance(self.fusion, WeightedFusion):
                kind = type(self.fusion).__name__
                raise ConfigError(f"Only a WeightedFusion can start from a fit, whose scale it fits; got {kind}.")
            self.fusion.load_state_dict({name: values[0] for name, values in model.start.state.items()})
            with torch.no_grad():
                self.first = self.fusion.preference(x, a, b)

    def best_linear(self, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weights `(split, stem)` and penalty `(split,)` that leave-one-out chooses on each train part."""
        deltas, alphas = self.embedded.deltas, self.model.alphas
        if self.first is not None and isinstance(self.fusion, WeightedFusion):
            return ridge_towards(self.fusion.weight.detach(), deltas, self.target, counts, alphas)
        return fit_weights(deltas, self.target, counts, alphas, loss=self.model.loss).best()

    def fit(self, counts: Tensor, inner: Tensor, best: Tensor, alphas: Tensor) -> tuple[Tensor, _State, Tensor]:
        """Fit some splits, given their rows of all arguments; return preference, state and step as in `FusionFits`."""
        rule, observers = self.model.settings, [self._observer(split) for split in counts]
        stop = torch.full((len(counts),), rule.steps)
        if rule.folds and rule.steps:
            held = inner.unsqueeze(1) == torch.arange(rule.folds).unsqueeze(1)  # (split, fold, triplet)
            inside = counts.unsqueeze(1) * ~held
            linear = self._linear(inside.flatten(0, 1), alphas.repeat_interleave(rule.folds))
            stop = self._choose_stop(self._stack(observers, inside, alphas, linear), counts, held)
        stack = self._stack(observers, counts.unsqueeze(1), alphas, best)
        kept = {name: values.detach().clone() for name, values in stack.parameters.items()}
        predicted = torch.zeros_like(counts)
        for step, preference in stack.descend(int(stop.max()), rule.learning_rate):
            here = stop == step
            predicted[here] = preference[here]
            for name, values in stack.parameters.items():
                kept[name][here] = values.detach()[here]
        return predicted, {name.removeprefix(_PREFIX): one for name, one in (kept | stack.buffers).items()}, stop

    def _observer(self, counts: Tensor) -> Fusion:
        """Return a new fusion that has observed the train part of a split, `(triplet,)`."""
        fusion, embeddings = deepcopy(self.fusion), self.embedded.embeddings
        if self.first is None:
            x, a, b = self.embedded.members[:, counts > 0.0]
            fusion.observe(StemPairs.of(embeddings.take(torch.cat([x, x])), embeddings.take(torch.cat([a, b]))))
        return fusion

    def _linear(self, counts: Tensor, alphas: Tensor) -> Tensor:
        """Return the best stem weights `(fit, stem)` for counts `(fit, triplet)` and penalties `(fit,)`."""
        deltas = self.embedded.deltas
        weights = counts.new_zeros(len(counts), deltas.shape[1])
        for alpha in alphas.unique() if self.first is None else ():  # type: ignore[no-untyped-call]
            rows = alphas == alpha
            fit = fit_weights(deltas, self.target, counts[rows], alpha[None], loss=self.model.loss)
            weights[rows] = fit.weights[:, 0]
        return weights

    def _stack(self, observers: Sequence[Fusion], counts: Tensor, alphas: Tensor, linear: Tensor) -> "_FusionStack":
        """Return fusions for counts `(split, fold, triplet)` that start from linear weights `(split * fold, stem)`.

        Where there is a fit to start from, they start from that, scaled to the counts.
        """
        folds = counts.shape[1]
        fusions = [deepcopy(observer) for observer in observers for _ in range(folds)]
        flat = counts.flatten(0, 1)
        if self.first is None:
            for fusion, weights in zip(fusions, linear, strict=True):
                fusion.start_from(weights)
        else:
            moment, square = flat @ (self.first * self.target), flat @ self.first.square()
            for fusion, scale in zip(fusions, moment / square.clamp(min=1e-300), strict=True):
                cast("WeightedFusion", fusion).weight.data.mul_(scale)
        return _FusionStack(self, fusions, flat, alphas.repeat_interleave(folds) / flat.sum(dim=1), alike=folds)

    def _choose_stop(self, stack: "_FusionStack", counts: Tensor, held: Tensor) -> Tensor:
        """Return the step `(split,)` that each split's inner folds choose."""
        rule = self.model.settings
        values = torch.stack(
            [
                (self.model.loss.terms(preference, self.target).value.reshape(held.shape) * held).sum(dim=1)
                for _, preference in stack.descend(rule.steps, rule.learning_rate)
            ],
            dim=1,
        )  # (split, step + 1, triplet); each triplet of the train part is held out of one fold
        share = (counts / counts.sum(dim=1, keepdim=True)).unsqueeze(1)
        best = (share * values).sum(dim=2).argmin(dim=1)
        worse = values - values[torch.arange(len(best)), best].unsqueeze(1)
        excess = (share * worse).sum(dim=2)  # (split, step + 1)
        error = (share.square() * (worse - excess.unsqueeze(2)).square()).sum(dim=2).sqrt()
        return (excess <= rule.standard_errors * error).double().argmax(dim=1)  # the first


class _FusionStack:
    """Fusions of one kind, each with its own counts of the triplets, differentiated together (`torch.func`).

    Where the problem has a fit to start from, the squared distance of all parameters from their present values is
    penalised, in place of the squared weights and the roughness.

    There are one fusion, counts `(fit, triplet)` of the triplets in the loss, and cost `l2` of the squared parameters
    for each fit. As many neighbouring fusions as `alike` have observed the same pairs, and so prepare pairs alike.
    """

    def __init__(self, problem: _Problem, fusions: Sequence[Fusion], counts: Tensor, l2: Tensor, *, alike: int) -> None:
        self.problem = problem
        self.counts = counts
        self.l2 = l2
        predictors = [_Predictor(fusion) for fusion in fusions]
        self.parameters, self.buffers = stack_module_state(predictors)
        anchored = {} if problem.first is None else self.parameters
        self.start = {name: values.detach().clone() for name, values in anchored.items()}
        self._predictor = predictors[0]
        self._pairs = []
        for pairs in problem.pairs:  # prepared once for all steps
            with torch.no_grad():
                features = [one for fusion in fusions[::alike] if (one := fusion.prepare(pairs)) is not None]
            stacked = torch.stack(features).repeat_interleave(alike, dim=0) if features else None
            self._pairs.append(pairs._replace(features=stacked))

    def evaluate(self) -> tuple[Tensor, Tensor]:
        """Return preferences `(fit, triplet)` and objectives `(fit,)`."""

        def predict(parameters: _State, buffers: _State, *features: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
            pairs = tuple(one._replace(features=own) for one, own in zip(self._pairs, features, strict=True))
            output: tuple[Tensor, Tensor, Tensor] = functional_call(self._predictor, (parameters, buffers), pairs)
            return output

        features = [pairs.features for pairs in self._pairs]
        axes = (0, 0, *(None if one is None else 0 for one in features))
        preference, penalty, roughness = vmap(predict, in_dims=axes)(self.parameters, self.buffers, *features)
        values = self.problem.model.loss.terms(preference, self.problem.target).value
        mean = (self.counts * values).sum(dim=1) / self.counts.sum(dim=1)
        if self.start:
            distances = [self.parameters[name] - start for name, start in self.start.items()]
            penalty = torch.stack([distance.square().flatten(1).sum(dim=1) for distance in distances]).sum(dim=0)
            roughness = torch.zeros_like(penalty)
        return preference, mean + self.l2 * penalty + roughness

    def descend(self, steps: int, learning_rate: float) -> Iterator[tuple[int, Tensor]]:
        """Minimise by Adam on the full batch; yield each step with the preferences `(fit, triplet)` before it."""
        learned = [values for values in self.parameters.values() if values.requires_grad]
        optimizer = torch.optim.Adam(learned, lr=learning_rate)
        for step in range(steps + 1):
            preference, objective = self.evaluate()
            yield step, preference.detach()
            if step < steps:
                optimizer.zero_grad()
                objective.sum().backward()  # type: ignore[no-untyped-call]
                optimizer.step()


class _Predictor(nn.Module):
    """A fusion, as a function of pairs that have been compared."""

    def __init__(self, fusion: Fusion) -> None:
        super().__init__()
        self.fusion = fusion

    def forward(self, to_a: StemPairs, to_b: StemPairs) -> tuple[Tensor, Tensor, Tensor]:
        """Return preference `(triplet,)`, penalty and roughness."""
        preference = self.fusion.similarity(to_a) - self.fusion.similarity(to_b)
        return preference, self.fusion.penalty(), self.fusion.roughness()


def _inner_folds(train: Tensor, rule: FitSettings, groups: Tensor | None = None) -> Tensor:
    """Return the inner fold `(split, triplet)` of each triplet of a train part, as many groups in each; else -1."""
    _, group = (torch.arange(train.shape[1]) if groups is None else groups).unique(  # type: ignore[no-untyped-call]
        return_inverse=True
    )
    members = torch.nn.functional.one_hot(group).double()  # (triplet, group)
    within = train.double() @ members > 0.0  # (split, group): which there are
    generator = torch.Generator().manual_seed(rule.seed)
    order = torch.rand(within.shape, generator=generator).masked_fill(~within, 2.0).argsort(dim=1)
    rank = torch.zeros_like(order).scatter(1, order, torch.arange(within.shape[1]).expand_as(order))
    inner = torch.where(train, rank[:, group] % max(1, rule.folds), -1)
    if rule.folds and int(within.sum(dim=1).min()) < rule.folds:
        raise SplitError(
            f"{rule.folds} inner folds need as many groups of triplets in every train part; the fewest are "
            f"{int(within.sum(dim=1).min())}. Use more songs, or fewer folds (FitSettings.folds)."
        )
    return inner
