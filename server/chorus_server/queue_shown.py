"""The queue as people and programs see it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from chorus_proto.ids import ModelName
from chorus_proto.queue_state import SHOWN_LIMIT, ModelQueue, QueueState, Running, Waiting
from chorus_server.scheduler import Scheduler
from chorus_server.seats import Seat
from chorus_server.standings import Serving, Standings


def shown(
    scheduler: Scheduler,
    standings: Standings,
    seats: Sequence[Seat],
    serving: Callable[[ModelName], list[Serving]],
    now_s: float,
) -> QueueState:
    """`seats` are those in use, `serving` the ready replicas of a model."""
    counted = counts(scheduler, standings, seats, serving)
    return replace(
        counted,
        waiting=tuple(
            Waiting(
                request_id=ticket.request_id,
                user=ticket.user,
                model=model,
                priority=ticket.priority,
                waited_s=now_s - ticket.came_s,
                standing=standing,
                late=ticket.is_late(now_s),
            )
            for model in (one.model for one in counted.models)
            for ticket, standing in standings.order(model)
        )[:SHOWN_LIMIT],
        running=tuple(
            Running(
                request_id=seat.ticket.request_id,
                user=seat.ticket.user,
                model=seat.ticket.group.model,
                priority=seat.ticket.priority,
                node_id=seat.record.node_id,
                node_name=seat.record.name,
                running_s=now_s - seat.since_s,
            )
            for seat in seats[:SHOWN_LIMIT]
        ),
    )


def counts(
    scheduler: Scheduler, standings: Standings, seats: Sequence[Seat], serving: Callable[[ModelName], list[Serving]]
) -> QueueState:
    """As `shown`, without naming a request: cheap however many wait."""
    running = Counter(seat.ticket.group.model for seat in seats)
    return QueueState(
        waiting_total=len(scheduler),
        running_total=len(seats),
        limit=scheduler.rules.limit,
        models=tuple(
            ModelQueue(
                model=model,
                waiting=scheduler.waiting(model),
                running=running[model],
                slots=sum(one.slots for one in serving(model)),
                users=scheduler.users(model),
                expected_wait_s=standings.next_wait_s(model),
            )
            for model in sorted({*scheduler.models, *running})
        ),
    )
