"""Deletes the work queue that the settings in force name, and the queues around it.

python -m worker.dev.tidy

For a demo on a broker that is not its own. Queues that are not there do no harm. The exit codes are the command line's.
"""

from __future__ import annotations

import asyncio
import sys

from worker.cli.options import Given
from worker.cli.reaching import reach, with_broker
from worker.cli.wiring import access_of, topology_of

_SECONDS = 15.0


def main() -> int:
    """Delete them."""
    settings = Given({}).load().settings
    topology = topology_of(settings)
    queues = (topology.work, *topology.waits, topology.suspect, topology.dead)

    async def delete() -> int:
        connected = await reach(access_of(settings, "worker demo"), "tidy", settings.connect_timeout)
        try:
            async with asyncio.timeout(_SECONDS):
                channel = await connected.amqp.channel()
                for queue in queues:
                    await channel.queue_delete(queue.name)
        finally:
            await connected.close()
        return 0

    return with_broker(delete)


if __name__ == "__main__":
    sys.exit(main())
