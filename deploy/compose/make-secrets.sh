#!/bin/sh
# Makes the secrets of compose.yaml, once: passwords for the worker's broker user, its admin listener and Grafana.
# The folder is for its owner alone; the files in it can be read by the containers' users, whoever they are.
set -eu
cd "$(dirname "$0")"
if [ -e secrets ]; then
    echo "$(pwd)/secrets is there already; remove it (and the volume rabbitmq, which knows the old password) first" >&2
    exit 1
fi
# RabbitMQ (3.10 as well as 4.3) takes default_permissions.read for write and the other way round: both say the same, which
# gives no more than the runbook's rights, for nothing of ours is bound to an exchange.
random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

umask 077
rm -rf secrets.new
mkdir secrets.new
password=$(random)
printf 'amqp://worker:%s@rabbitmq:5672/worker\n' "$password" >secrets.new/amqp-url
cat >secrets.new/rabbitmq-user.conf <<END
default_user = worker
default_pass = $password
default_user_tags.administrator = false
default_permissions.configure = ^jobs([.]dead|[.]suspect|[.]wait[.][0-9]+s)?\$
default_permissions.write = ^(amq[.]default|jobs([.]dead|[.]suspect|[.]wait[.][0-9]+s)?)\$
default_permissions.read = ^(amq[.]default|jobs([.]dead|[.]suspect|[.]wait[.][0-9]+s)?)\$
END
random >secrets.new/admin-token
random >secrets.new/grafana-password
chmod 0644 secrets.new/*
mv secrets.new secrets
echo "made $(pwd)/secrets: amqp-url, rabbitmq-user.conf, admin-token, grafana-password"
