"""A store of letters between schedulers, in memory, on a clock of its own: what the mailbox's script does in Redis."""

from __future__ import annotations

from collections import defaultdict


class MailStore:
    """Answers exchanges. ``now``: its clock. ``away``: it fails. ``loses_answer``: it does the next one, and fails."""

    def __init__(self):
        """Empty."""
        self.now, self.away, self.loses_answer = 0.0, False, False
        self.empty()

    def empty(self):
        """Start anew, as a store does that keeps nothing."""
        self.beats, self.inboxes = {}, defaultdict(list)

    def register_script(self, _):
        """The one script."""
        return self._exchange

    async def _exchange(self, keys, args):
        if self.away:
            raise OSError("away")
        me, ttl, _, most, take, *sent = args
        self.beats = {name: until for name, until in self.beats.items() if until > self.now} | {me: self.now + ttl}
        full = []
        for at, inbox in enumerate(keys[2:]):
            count, *sent = sent
            letters, sent = sent[:count], sent[count:]
            if len(self.inboxes[inbox]) + count > most:
                full.append(at)
            else:
                self.inboxes[inbox] += letters
        own = self.inboxes[keys[1]]
        found, self.inboxes[keys[1]] = own[:take], own[take:]
        if self.loses_answer:
            self.loses_answer = False
            raise OSError("lost")
        there = sorted(self.beats, key=lambda name: (self.beats[name], name))
        return [name.encode() for name in there], full, [letter.encode() for letter in found]
