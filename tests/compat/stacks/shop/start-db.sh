# As the official image does: the server's own user, its files in a volume, made at the first start.
set -e
PATH=$(echo /usr/lib/postgresql/*/bin):$PATH
export PGDATA=/var/lib/db/data
mkdir -p /var/run/postgresql
chown postgres /var/lib/db /var/run/postgresql
if [ ! -e "$PGDATA/PG_VERSION" ]; then
  su postgres -c 'initdb --no-sync --auth trust --encoding UTF8 --locale C'
  echo 'host all all all trust' >>"$PGDATA/pg_hba.conf"
  echo "CREATE TABLE goods (name text); INSERT INTO goods VALUES ('tea'), ('milk');" |
    su postgres -c 'postgres --single postgres'
fi
exec su postgres -c 'exec postgres -h "*"'
