"""The door to RabbitMQ: the only folder that imports aio_pika."""
