#!/bin/sh
visits=$(redis-cli -h counter.internal incr visits)
goods=$(/usr/lib/postgresql/*/bin/psql -h db -U postgres -Atc 'SELECT count(*) FROM goods')
printf 'Content-Type: text/plain\r\n\r\n'
echo "$(hostname): visit $visits, $goods goods"
