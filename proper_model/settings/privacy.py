"""Settings of differential privacy: of whole users in stages 1 and 2, of single items in an adapter.

The former are the table `[privacy]` of a profile (docs/method.md 1.12). Where it is there, the pooled stages take a fixed number of steps over
users drawn by chance, and these fields stand in for epochs, batch size, early stopping, `max_grad_norm`
and `held_back_fraction`; without it nothing is protected and nothing of this is read.

The latter are a person's, on the own device (docs/method.md 1.13): epsilon and delta are asked for, and how a
step is taken is the same for everybody, since whatever chose it by the person's items would have to be paid for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from proper_model.settings.presets import Structure, check, check_count, check_rate

MOST_STEPS = 1_000_000
MOST_ITEMS = 1 << 24
MAX_NOISE = 1e4
MAX_EPSILON = 1e3
MAX_CLIP = 1e6


@dataclass(frozen=True)
class PrivacySettings:
    """How stages 1 and 2 are made differentially private for whole users.

    Either `noise_multiplier` or `epsilon` is given; the other follows from it by the accountant.

    Attributes:
        delta: at which epsilon is stated; below one over the number of users.
        sampling_rate: q, the probability that a user takes part in a step.
        clip_norm: C, the most that one user adds to a step's sum, over all trained tensors together.
        population_steps, group_steps: of stages 1 and 2; both count towards epsilon.
        population_learning_rate, group_learning_rate: of a noisy step; None: the stage's own. There are few
            such steps, and AdamW makes each as long as its rate whatever the noise, so several times the
            stage's is usual. Rates cost no epsilon unless they are chosen by what these people give.
        noise_multiplier: z; the sum gets noise of standard deviation z C.
        epsilon: the target that z is chosen for.
        items_per_user: most items of a user in a step, drawn anew each time.
        freeze_a: train the factors B only, over random A (FFA-LoRA, arXiv 2403.12313): fewer
            numbers get noise.
        core: train of every factor B an r x r core alone (LoRA-XS, arXiv 2405.17604): far fewer still.
        reproducible: who is drawn and the noise follow from the run's seed. For tests: whoever knows
            the seed can take the noise away, so epsilon is then infinite.
    """

    delta: float
    sampling_rate: float
    clip_norm: float
    population_steps: int
    group_steps: int
    population_learning_rate: float | None = None
    group_learning_rate: float | None = None
    noise_multiplier: float | None = None
    epsilon: float | None = None
    items_per_user: int = 8
    freeze_a: bool = True
    core: bool = False
    reproducible: bool = False

    def __post_init__(self) -> None:
        check(0 < self.delta < 1, f"privacy.delta must be between 0 and 1, got {self.delta}")
        check(
            0 < self.sampling_rate <= 1,
            f"privacy.sampling_rate must be above 0 and at most 1, got {self.sampling_rate}",
        )
        check(
            0 < self.clip_norm <= MAX_CLIP,
            f"privacy.clip_norm must be positive and at most {MAX_CLIP:g}, got {self.clip_norm}",
        )
        check_count(self.population_steps, MOST_STEPS, "privacy.population_steps")
        check_count(self.group_steps, MOST_STEPS, "privacy.group_steps")
        for name in ("population_learning_rate", "group_learning_rate"):
            rate = getattr(self, name)
            if rate is not None:
                check_rate(rate, f"privacy.{name}")
        check_count(self.items_per_user, MOST_ITEMS, "privacy.items_per_user")
        check(
            self.freeze_a or not self.core,
            "privacy.core is true and privacy.freeze_a is false: a core stands between fixed factors",
            hint="leave freeze_a out",
        )
        check(
            (self.noise_multiplier is None) != (self.epsilon is None),
            "privacy: give either noise_multiplier or epsilon; one follows from the other",
        )
        if self.epsilon is not None:
            check(
                0 < self.epsilon <= MAX_EPSILON,
                f"privacy.epsilon must be positive and at most {MAX_EPSILON:g}, got {self.epsilon}",
            )
        if self.noise_multiplier is not None:
            check(
                0 <= self.noise_multiplier <= MAX_NOISE,
                f"privacy.noise_multiplier must be 0 to {MAX_NOISE:g}, got {self.noise_multiplier}",
            )
            check(
                self.noise_multiplier > 0 or self.reproducible,
                "privacy.noise_multiplier is 0, which protects nobody",
                hint="for an experiment without noise set reproducible = true, and no epsilon is stated",
            )

    def with_noise(self, multiplier: float) -> PrivacySettings:
        """The same with z, in place of the target that it was found for."""
        return replace(self, noise_multiplier=multiplier, epsilon=None)

    @property
    def z(self) -> float:
        """The noise multiplier, of settings that have one."""
        assert self.noise_multiplier is not None
        return self.noise_multiplier

    def steps(self, structure: Structure) -> int:
        """Of all stages that a release of this structure takes."""
        return self.population_steps + (0 if structure.population_only else self.group_steps)

    def check_users(self, users: int) -> None:
        """Raise ConfigError if delta would allow one of so many users to be published outright."""
        check(
            self.delta * users < 1,
            f"privacy.delta is {self.delta:g} with {users} pooled users; it must be below one over "
            "their number, since that large a delta allows publishing a user's data outright",
            hint=f"set privacy.delta to {users**-1.1:.1e}",
        )


def check_private_structure(structure: Structure) -> None:
    """Raise ConfigError unless nothing of a release of this structure escapes the noise."""
    if structure.population_only:
        return
    why = None
    if not structure.infers_user:
        why = (
            "its users have trained embeddings, of which the release publishes the mean, and the mean is "
            "of rows that get no noise"
        )
    elif structure.has_lora_router:
        why = (
            "its LoRA-aware router is trained on private LoRAs of pooled users, which get no noise"
        )
    check(
        why is None,
        f"privacy: preset '{structure.name}' cannot be trained with user-level privacy: {why}",
        hint="take preset 'calibrated', or release stage 1 alone: --population-only",
    )


@dataclass(frozen=True)
class ItemPrivacy:
    """How a private LoRA is trained so that it tells little of any single item.

    Nothing of it depends on the items, nor on how many there are.

    Attributes:
        epsilon: what is promised; as asked for, or as the accountant found it for `noise_multiplier`.
        delta: at which epsilon is stated; below one over the number of items.
        sampling_rate: q, the probability that an item takes part in a step.
        steps: how many are taken.
        clip_norm: C, the most that one item adds to a step's sum, over the whole adapter. As short as
            this, nearly every item is cut to it and counts alike; the optimizer minds no scale.
        noise_multiplier: z; the sum gets noise of standard deviation z C. None: not found yet.
        accountant: which program said so.
    """

    epsilon: float
    delta: float = 1e-5
    sampling_rate: float = 0.5
    steps: int = 40
    clip_norm: float = 1e-3
    noise_multiplier: float | None = None
    accountant: str = ""

    def __post_init__(self) -> None:
        check(
            0 < self.epsilon <= MAX_EPSILON,
            f"privacy of items: epsilon must be positive and at most {MAX_EPSILON:g}, got {self.epsilon}",
        )
        check(
            0 < self.delta < 1,
            f"privacy of items: delta must be between 0 and 1, got {self.delta}",
        )
        check(
            0 < self.sampling_rate <= 1,
            "privacy of items: sampling_rate must be above 0 and at most 1, "
            f"got {self.sampling_rate}",
        )
        check_count(self.steps, MOST_STEPS, "privacy of items: steps")
        check(
            0 < self.clip_norm <= MAX_CLIP,
            f"privacy of items: clip_norm must be positive and at most {MAX_CLIP:g}, "
            f"got {self.clip_norm}",
        )
        if self.noise_multiplier is not None:
            check(
                0 < self.noise_multiplier <= MAX_NOISE,
                f"privacy of items: noise_multiplier must be above 0 and at most {MAX_NOISE:g}, "
                f"got {self.noise_multiplier}",
            )

    def promised(self, noise_multiplier: float, epsilon: float, accountant: str) -> ItemPrivacy:
        """The same with the z that was found for the target, and what that comes to."""
        return replace(
            self, noise_multiplier=noise_multiplier, epsilon=epsilon, accountant=accountant
        )

    @property
    def z(self) -> float:
        """The noise multiplier, of settings that have one."""
        assert self.noise_multiplier is not None
        return self.noise_multiplier

    def check_items(self, items: int) -> None:
        """Raise ConfigError if delta would allow one of so many items to be given away outright."""
        check(
            self.delta * items < 1,
            f"delta is {self.delta:g} with {items} items; it must be below one over their number, since "
            "that large a delta allows giving an item away outright",
            hint=f"a smaller one: --private-delta {items**-1.1:.1e}",
        )
