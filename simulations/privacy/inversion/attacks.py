"""One seed's attacks on uploads: which text it was, and which words are in it.

    candidates  100 texts, those of the batch among them: the nearest one's gradient is one of the batch
    tokens      share of the distinct tokens of the batch that are named, special ones left out
    answer      the same of the tokens that the loss is on

Guessing names the tokens that are most frequent in texts which the attacker has. Negative control: the upload
of another participant, judged by one's own texts. Positive: the gradient of the embedding matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from proper_model.kernels import Encoded
from simulations.privacy.inversion import matching
from simulations.privacy.inversion.uploads import (
    LoraUpload,
    RouterUpload,
    Upload,
    embedding_rows,
    gradients,
    local_updates,
)
from simulations.privacy.linkage.releases import Held, Lab
from simulations.privacy.membership.population import Candidates
from simulations.privacy.membership.targets import public_model
from simulations.privacy.statistics.inverting import (
    Defence,
    candidate_found,
    frequencies,
    read_tokens,
    recovered,
)
from simulations.privacy.statistics.shares import Control, Tried

Floats = NDArray[np.float64]
READ = ("tokens", "answer")
UPLOADS = ("router", "lora", "lora-update")
CANDIDATES = 100
PUBLIC = 600  # texts that the attacker learns from
KNOWN, UNKNOWN = "router", "router, adapter unknown"


@dataclass(frozen=True)
class Sent:
    """Uploads of one kind, undefended: of participants, of candidates, and of public texts.

    Attributes:
        own: [P, D] each participant's, of the batch.
        candidates: of a participant [C, D], each candidate's alone, those of the batch first.
        public: [N, D] of batches of public texts, as large as the participants'.
        prefix: how many numbers of an upload only its norm reads: nothing is learned from them.
    """

    own: Floats
    candidates: Callable[[int], Floats]
    public: Floats
    prefix: int = 0

    def other(self) -> Sent:
        """The same with every participant's upload exchanged for another's."""
        return replace(self, own=np.roll(self.own, 1, axis=0))


class Attacker:
    """One seed: participants and their batches, what they would send, and all attacks on it."""

    def __init__(self, lab: Lab, batch: int, steps: int) -> None:
        self.lab, self.batch, self.steps = lab, batch, steps
        self.owner = np.array(lab.parts.attacked, dtype=np.int64)
        structure, settings = lab.structure, lab.settings
        people, task = lab.people, lab.people.tasks[0]
        whole = Candidates(people.kind, people.users, task, people.alone, 0.0)
        self.model, self.encoder = public_model(whole, structure, settings)
        self.batches = [
            [self.encoder.encode(task.history_example(item)) for item in halves[1][:batch]]
            for halves in lab.parts.halves
        ]
        taken = {record.tokens for own in self.batches for record in own}
        texts = [
            self.encoder.encode(task.history_example(item))
            for who in lab.parts.public
            for item in lab.people.users[who].history
        ]
        different = {record.tokens: record for record in texts if record.tokens not in taken}
        order = self._rng("public").permutation(len(different))[:PUBLIC]
        self.public = [list(different.values())[place] for place in order]

    @property
    def vocabulary(self) -> int:
        """V: rows of the embedding matrix."""
        return int(self.model.base.get_input_embeddings().num_embeddings)

    @property
    def held(self) -> Held:
        """The release, and what every participant trained on the other half of the own items."""
        return self.lab.first_half

    def run(self, uploads: Sequence[str], defences: Sequence[Defence]) -> list[Tried]:
        """All attacks on the uploads that are asked for. What the preset has not gives none."""
        found = self._on_embeddings()
        if "router" in uploads and self.lab.structure.has_lora_router:
            self.lab.progress("gradients of W_l", 0, 0)
            for thing, sent in self._router().items():
                found += self._attacked(thing, sent, defences)
            found += self._matched("router", defences)
        if "lora" in uploads or "lora-update" in uploads:
            self.lab.progress("gradients of a LoRA", 0, 0)
            for thing, sent in self._lora().items():
                if thing in uploads:
                    found += self._attacked(thing, sent, defences)
        if "lora" in uploads:
            found += self._matched("lora", defences)
        return found

    # What would be sent.

    def _lora(self) -> dict[str, Sent]:
        upload = LoraUpload(self.model.base, self.lab.structure, self.lab.settings)

        def of(records: Sequence[Encoded]) -> Floats:
            return gradients(upload, self.encoder, records, [0] * len(records))

        public = of(self.public)
        true = [of(own) for own in self.batches]
        prefix = sum(
            factor.numel() for factor in upload.a
        )  # at the start B = 0, so A has no gradient
        others = public[: CANDIDATES - self.batch]

        def candidates(who: int) -> Floats:
            return np.concatenate([true[who], others])

        own = np.stack([one.mean(0) for one in true])
        once = Sent(own, candidates, self._in_batches(public), prefix)
        return {
            "lora": once,
            "lora-update": replace(once, own=local_updates(upload, self.encoder, self.batches)),
        }

    def _router(self) -> dict[str, Sent]:
        """With the participant's own adapter, and with another participant's in its place."""
        upload = RouterUpload(self.held.release, self.held.states)
        people, more = len(self.batches), self.public[: CANDIDATES - self.batch]

        def of(records: Sequence[Encoded], who: int) -> Floats:
            return gradients(upload, self.encoder, records, [who] * len(records))

        known = [of([*own, *more], who) for who, own in enumerate(self.batches)]
        unknown = [of(own, (who + 1) % people) for who, own in enumerate(self.batches)]

        def other(who: int) -> Floats:
            return np.concatenate([unknown[who], known[(who + 1) % people][self.batch :]])

        slots = [place % people for place in range(len(self.public))]
        mixed = self._in_batches(gradients(upload, self.encoder, self.public, slots))
        own = np.stack([one[: self.batch].mean(0) for one in known])
        whole = Sent(own, known.__getitem__, mixed)
        return {KNOWN: whole, UNKNOWN: replace(whole, candidates=other)}

    def _in_batches(self, public: Floats) -> Floats:
        """[N / batch, D] means over public texts in the order of `self.public`."""
        count = len(public) // self.batch
        return np.asarray(public[: count * self.batch].reshape(count, self.batch, -1).mean(1))

    # What is found.

    def _attacked(self, thing: str, sent: Sent, defences: Sequence[Defence]) -> list[Tried]:
        found = []
        norm = float(np.median(np.linalg.norm(sent.public, axis=1)))
        for defence in defences:
            found += self._one(thing, sent, defence, norm, "none")
        return [*found, *self._one(thing, sent.other(), Defence(), norm, "negative")]

    def _one(
        self, thing: str, sent: Sent, defence: Defence, norm: float, control: Control
    ) -> list[Tried]:
        rng = self._rng(f"{thing}/{defence.name}")
        own, public = (
            defence.applied(one, norm, rng=rng)[:, sent.prefix :] for one in (sent.own, sent.public)
        )

        def candidates(who: int) -> Floats:
            return sent.candidates(who)[:, sent.prefix :]

        found = [self._nearest(thing, own, candidates, defence, control)]
        if thing == UNKNOWN:
            return found
        known = self._in_sets(self.public)
        has = np.zeros((len(known), 2, self.vocabulary), dtype=np.bool_)
        for row, sets in enumerate(known):
            for place in (0, 1):
                has[row, place, list(sets[place])] = True
        used = np.flatnonzero(has.any(0).ravel())
        scores = np.full((len(own), 2 * self.vocabulary), -np.inf)
        scores[:, used] = read_tokens(public, has.reshape(len(known), -1)[:, used], own)
        for scope, part in zip(READ, np.split(scores, 2, axis=1), strict=True):
            found.append(self._read(scope, thing, part, "learned reading", defence, control))
        return found

    def _nearest(
        self,
        thing: str,
        own: Floats,
        candidates: Callable[[int], Floats],
        defence: Defence,
        control: Control,
    ) -> Tried:
        found = [candidate_found(one, candidates(who), self.batch) for who, one in enumerate(own)]
        hit, rank = np.array(found).T
        chance = self.batch / CANDIDATES
        attack, held = f"nearest, {defence.name}", self._held(thing)
        whole = Tried("candidates", held, attack, control, chance, hit, self.owner)
        # Of several the best place counts, which guessing puts before the middle.
        return replace(whole, rank=rank, ranked=CANDIDATES) if self.batch == 1 else whole

    def _read(
        self,
        scope: str,
        thing: str,
        scores: Floats,
        attack: str,
        defence: Defence,
        control: Control,
    ) -> Tried:
        truth = [sets[scope == "answer"] for sets in self._in_sets(self._flat_batches())]
        hit = recovered(scores, truth)
        name, chance = f"{attack}, {defence.name}", self._guessed(scope, truth)
        return Tried(scope, self._held(thing), name, control, chance, hit, self.owner)

    def _guessed(self, scope: str, truth: Sequence[frozenset[int]]) -> float:
        """What naming the most frequent tokens of public texts recovers, in the mean."""
        known = [sets[scope == "answer"] for sets in self._in_sets(self.public)]
        counts = frequencies(known, self.vocabulary)
        return float(recovered(np.tile(counts, (len(truth), 1)), truth).mean())

    def _flat_batches(self) -> list[Encoded]:
        return [record for own in self.batches for record in own]

    def _in_sets(self, records: Sequence[Encoded]) -> list[tuple[frozenset[int], frozenset[int]]]:
        """Of every batch the distinct tokens, and those of its answers; none that is special."""
        special = set(self.encoder.tokenizer.all_special_ids)
        found = []
        for start in range(0, len(records) - self.batch + 1, self.batch):
            part = records[start : start + self.batch]
            whole = {token for record in part for token in record.tokens}
            answers = {token for record in part for token in record.tokens[record.prompt_tokens :]}
            found.append((frozenset(whole - special), frozenset(answers - special)))
        return found

    def _on_embeddings(self) -> list[Tried]:
        """The gradient of the embedding matrix: rows of tokens that are not there are zero."""
        rows = [embedding_rows(self.model, self.encoder, own) for own in self.batches]
        own = np.stack([one.sum(0) for one in rows])
        others = embedding_rows(self.model, self.encoder, self.public[: CANDIDATES - self.batch])

        def candidates(who: int) -> Floats:
            return np.concatenate([rows[who], others])

        found = [self._nearest("embeddings", own, candidates, Defence(), "positive")]
        special = self.encoder.tokenizer.all_special_ids
        own[:, special] = 0
        read = self._read("tokens", "embeddings", own, "read off", Defence(), "positive")
        return [*found, read]

    def _matched(self, thing: str, defences: Sequence[Defence]) -> list[Tried]:
        """Gradient matching, of single texts, without noise and with the least of it."""
        if self.batch != 1 or not self.steps:
            return []
        self.lab.progress(f"matching gradients of {thing}", 0, 0)
        upload = self._plain(thing)
        records, slots = self._flat_batches(), list(range(len(self.batches)))
        gradient_of = matching.gradient_of_texts(upload, records, slots)
        wanted = gradients(upload, self.encoder, records, slots)
        norm = float(np.median(np.linalg.norm(wanted, axis=1)))
        known = [sets[0] for sets in self._in_sets(self.public)]
        prior = torch.from_numpy(frequencies(known, self.vocabulary))
        noisy = sorted((one for one in defences if one.noise), key=lambda one: one.noise)
        found = []
        for defence in (Defence(), *noisy[:1]):
            sent = defence.applied(wanted, norm, rng=self._rng(f"{thing}/matching/{defence.name}"))
            start, fixed = matching.start_of(
                records, prior, generator=torch.Generator().manual_seed(self.lab.seed)
            )
            soft = matching.match(
                gradient_of, torch.from_numpy(sent), start, fixed, steps=self.steps
            )
            named = matching.tokens_of(soft, records)
            found.append(self._named(thing, named, defence, "none"))
            if not defence.clips:
                other = [*named[1:], named[0]]
                found.append(self._named(thing, other, defence, "negative"))
        return found

    def _named(
        self, thing: str, named: Sequence[Sequence[int]], defence: Defence, control: Control
    ) -> Tried:
        truth = [sets[0] for sets in self._in_sets(self._flat_batches())]
        hit = [len(own & set(said)) / len(own) for own, said in zip(truth, named, strict=True)]
        attack, chance = f"gradient matching, {defence.name}", self._guessed("tokens", truth)
        held = self._held(thing)
        return Tried("tokens", held, attack, control, chance, np.array(hit), self.owner)

    def _plain(self, thing: str) -> Upload:
        """The upload over a copy of the model whose gradients can be differentiated."""
        upload: RouterUpload | LoraUpload
        if thing == "router":
            base = matching.plain_copy(self.held.release.base)
            upload = RouterUpload(replace(self.held.release, base=base), self.held.states)
        else:
            base = matching.plain_copy(self.model.base)
            upload = LoraUpload(base, self.lab.structure, self.lab.settings)
        matching.make_plain(upload.model)
        return upload

    def _held(self, thing: str) -> str:
        return f"{thing}; {self.batch} text{'s' * (self.batch > 1)}"

    def _rng(self, name: str) -> np.random.Generator:
        return np.random.default_rng([self.lab.seed, self.batch, *name.encode()])
