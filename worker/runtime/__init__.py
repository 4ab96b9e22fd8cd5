"""The way of one job: asyncio; knows core, never AMQP, never HTTP."""
