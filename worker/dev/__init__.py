"""For a laptop, the demo and the tests: a private RabbitMQ node and a local HTTP target. No service needs it."""
