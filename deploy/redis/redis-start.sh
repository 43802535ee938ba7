# Started by `sh -c` in the redis container: write the users, then become the server (Valkey or Redis 7).
# Nobody may do what is dangerous to the whole server; the verifier, where model-written code runs, may touch no key
# but its streams, its results, its verdicts and observations; on `generate`, where answered conversations go on, it may
# append and nothing else. Without `~`, a user has no keys at all. `watch`, the live page, may read; without a password
# of its own there is no such user.
set -eu
umask 077
safe='resetchannels +@all -@admin -@dangerous'
cat >/tmp/users.acl <<EOF
user default off
user trainer on >$TRAINER_PASSWORD ~rgopd:* $safe +info +config|get
user teacher on >$TEACHER_PASSWORD ~rgopd:* $safe
user sampler on >$SAMPLER_PASSWORD ~rgopd:* $safe
user verifier on >$VERIFIER_PASSWORD ~rgopd:*verify ~rgopd:*environment ~rgopd:*results ~rgopd:*dead ~rgopd:*:blob:verdict:* ~rgopd:*:blob:observation:* $safe -@scripting +eval +evalsha +script|load (+xadd +expire %W~rgopd:*:stream:generate)
EOF
test -z "${WATCH_PASSWORD-}" || cat >>/tmp/users.acl <<EOF
user watch on >$WATCH_PASSWORD %R~rgopd:* resetchannels +@read +@connection +time -@admin -@dangerous
EOF
server=$(command -v valkey-server || command -v redis-server)
# noeviction: a full server must refuse; dropping a message or a tensor would lose work.
exec "$server" --bind '* -::*' --port 6379 --protected-mode no --dir /data --aclfile /tmp/users.acl \
    --appendonly yes --appendfsync everysec --save '' --maxmemory "$REDIS_MAXMEMORY" --maxmemory-policy noeviction
