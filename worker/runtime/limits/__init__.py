"""What a key allows: decisions as values, without asyncio; `worker.runtime.limiter` asks them and does the waiting."""
