import math
from itertools import pairwise, permutations

from pydantic import BaseModel

from worker import Context, Registry

registry = Registry()

TOURS = "https://tours.example.com/tours"

Stop = tuple[float, float]


class Tour(BaseModel):
    id: int


def shortest(stops: list[Stop]) -> list[Stop]:
    """Tries every order, in a process of its own: the loop that runs all other jobs must not wait for that."""
    start, *others = stops
    orders = ([start, *order] for order in permutations(others))
    return min(orders, key=lambda order: sum(math.dist(here, there) for here, there in pairwise(order)))


@registry.handler("tour.plan", timeout=50)
async def plan(tour: Tour, context: Context) -> None:
    # Not a step: another attempt plans for the stops there are by then.
    response = await context.http.get(f"{TOURS}/{tour.id}/stops")
    response.raise_for_status()
    stops = [(x, y) for x, y in response.json()]
    order = await context.run_cpu(shortest, stops, timeout=40)
    response = await context.http.put(f"{TOURS}/{tour.id}/order", json=order)
    response.raise_for_status()
