#!/bin/sh
# Roll one service of docker-compose.yml to the image that VERSION names, a replica at a time, in mid-run:
#   VERSION=0.2.0 deploy/docker/roll.sh teacher
# New replicas come up beside the old ones; each old one then gets SIGTERM, finishes what it holds, and goes.
set -eu
service=$1
compose=${COMPOSE:-docker compose}
docker=${DOCKER:-docker}
old=$($compose ps -q "$service")
count=$(echo "$old" | wc -w)
$compose up -d --no-deps --no-recreate --scale "$service=$((count * 2))" "$service"
for replica in $($compose ps -q "$service"); do
    case " $(echo $old) " in *" $replica "*) continue ;; esac
    until test "$($docker inspect -f '{{.State.Health.Status}}' "$replica")" = healthy; do sleep 1; done
done
for replica in $old; do
    $docker stop --time 45 "$replica" >/dev/null # drain_s is 30; compose's own stop would take the new ones too
    $docker rm "$replica" >/dev/null
done
