"""What was promised for single items of an adapter: asked for, kept over trainings, said in words.

A person's whole state is under one promise, or under none: the embedding belongs to all tasks. Every training
of the same items spends anew, and a task's report adds up what was spent, so that whoever keeps old adapters is
told what all of them together promise. Source: docs/method.md 1.13.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from client.person.state import PersonalState, Report
from proper_model.accounting import account
from proper_model.errors import ConfigError
from proper_model.settings import ItemPrivacy
from proper_model.tasks import HistoryItem, Task, counted

OFF = "off"
TRAININGS, EPSILON_ALL, DELTA_ALL = "private_trainings", "private_epsilon_all", "private_delta_all"


def asked_privacy(epsilon: str | None, delta: float | None) -> ItemPrivacy | str | None:
    """What the options ask for: a promise with its noise, `OFF`, or None: as it was.

    Raises ConfigError for values that promise nothing, and where no accountant is installed.
    """
    if epsilon is None or epsilon == OFF:
        if delta is not None:
            raise ConfigError(
                "--private-delta goes with an epsilon", hint="add --private-epsilon, for example 8"
            )
        return epsilon
    try:
        number = float(epsilon)
    except ValueError:
        raise ConfigError(
            "--private-epsilon expects a number, or off",
            hint="for example --private-epsilon 8; smaller promises more",
        ) from None
    wanted = ItemPrivacy(number)
    if delta is not None:
        wanted = replace(wanted, delta=delta)
    found = account(
        sampling_rate=wanted.sampling_rate,
        steps=wanted.steps,
        delta=wanted.delta,
        epsilon=wanted.epsilon,
    )
    return wanted.promised(found.noise_multiplier, found.epsilon, found.accountant)


def privacy_after(
    state: PersonalState | None, asked: ItemPrivacy | str | None
) -> ItemPrivacy | None:
    """What holds once it is trained as asked; `state` None: nothing is stored."""
    if asked is None:
        return None if state is None else state.privacy
    return asked if isinstance(asked, ItemPrivacy) else None


def with_privacy(state: PersonalState, asked: ItemPrivacy | str | None) -> PersonalState:
    """The state under what was asked for, before it is trained so."""
    return replace(state, privacy=privacy_after(state, asked))


def check_promise(
    privacy: ItemPrivacy, histories: Mapping[str, tuple[Task, Sequence[HistoryItem]]]
) -> None:
    """Raise ConfigError where some task's items cannot be protected one by one."""
    for name, (task, items) in histories.items():
        if task.retrieve:
            raise ConfigError(
                f"task {name} has own items before a question, so that one item stands in the training "
                "examples of others, and privacy of single items cannot bound what it adds",
                hint="adapt that task with --retrieve 0; or leave privacy: --private-epsilon off",
            )
        privacy.check_items(len(items))


def check_update(state: PersonalState) -> None:
    """Raise ConfigError where an update would go on from an adapter under privacy."""
    if state.privacy is not None:
        raise ConfigError(
            "your adapter is under privacy of single items, and an update would train with old items once "
            "more and choose by the new ones",
            hint="proper adapt HISTORY with the whole history trains anew, under the same promise",
        )


def standing(state: PersonalState, changed: str | None) -> frozenset[str]:
    """Tasks whose adapters stay as they are when `changed` is trained: training them would spend anew.

    Under privacy adapters of tasks have nothing in common. None: all are trained.
    """
    if state.privacy is None or changed is None:
        return frozenset()
    now = _numbers(state.privacy)
    return frozenset(
        name
        for name, task in state.tasks.items()
        if name != changed and task.adapter and now.items() <= task.report.items()
    )


def promise_report(privacy: ItemPrivacy, before: Report) -> dict[str, float | int | str]:
    """What a trained task's report says of it, `before` being the report of the training before."""
    spent = (float(before.get(key, 0.0)) for key in (EPSILON_ALL, DELTA_ALL))
    epsilon, delta = spent
    return {
        **_numbers(privacy),
        TRAININGS: int(before.get(TRAININGS, 0)) + 1,
        EPSILON_ALL: epsilon + privacy.epsilon,
        DELTA_ALL: delta + privacy.delta,
    }


def promise_sentences(report: Report) -> list[str]:
    """The promise in words, as a command says it; none where there is none."""
    if TRAININGS not in report:
        return []
    told = [
        f"For any single one of your items it is differentially private: epsilon {report['private_epsilon']:.3g}, "
        f"delta {report['private_delta']:.0e} ({report['private_accountant']}; {report['private_steps']} steps, "
        f"an item in each with probability {report['private_sampling_rate']:g}, gradients cut to "
        f"{report['private_clip_norm']:g}, noise multiplier {report['private_noise_multiplier']:.4g})."
    ]
    times = int(report[TRAININGS])
    if times > 1:
        told.append(
            f"Items of this task were trained on {counted(times, 'time')} under privacy: whoever has all "
            f"these adapters, from exports or backups, is bound by epsilon {report[EPSILON_ALL]:.3g} and "
            f"delta {report[DELTA_ALL]:.0e} only."
        )
    return told


def _numbers(privacy: ItemPrivacy) -> dict[str, float | int | str]:
    return {
        "private_epsilon": privacy.epsilon,
        "private_delta": privacy.delta,
        "private_steps": privacy.steps,
        "private_sampling_rate": privacy.sampling_rate,
        "private_clip_norm": privacy.clip_norm,
        "private_noise_multiplier": privacy.z,
        "private_accountant": privacy.accountant,
    }
