"""What the Redis carrier has Redis do, in Lua: each script is one step of the directory, whole or not at all.

Law: all keys begin with `{prefix}:` and so lie in one slot of a cluster. What lies in Redis:

    {prefix}:n:NAME     sorted set: who has members of this name, by the instant at which the latest has joined
    {prefix}:hosts      sorted set: which hosts are there, by the instant of their last beat
    {prefix}:of:HOST.N  set: the names that this host has members of
    {prefix}:dead       set: hosts that are gone, and whose names have yet to be taken out
    {prefix}:lost       sorted set: those of them that have gone without a word, by the instant when that was noticed

A host stands there as HOST.N, its id and the number of its connection to Redis: when it comes back it is a new one, and
what the old connection had joined, or still has under way, counts no more from that moment. In the set of a name a `s`
stands before a host that shares it, and an `a` before one that holds it alone. A host that nobody hears for, or whose
beat is late, is dead: whoever notices first says so, and a dead host that is alive after all hears of it with its next
beat, and begins anew. For a few seconds its names stay: it may only be connecting again, or its hub be started again,
and nobody shall be told meanwhile that nobody is there. Redis 5 or later (a script may write what depends on TIME), and
Valkey.
"""

from __future__ import annotations

from hashlib import sha1

from pronghorn.bus.carrier import MAY_BE_BACK

CHUNK = 500
"""Names that one script takes at most: Redis does nothing else meanwhile."""

_COMMON = (
    f"""
local p = ARGV[1]
local patience = {MAY_BE_BACK}
"""
    + """
local function host_of(member) return string.match(member, '^%w+') end
local function exact(number) return string.format('%.17g', number) end
local function instant()
    local time = redis.call('TIME')
    return time[1] + time[2] / 1000000
end
local function lose(host)
    redis.call('ZREM', p .. 'hosts', host)
    redis.call('SADD', p .. 'dead', host)
    redis.call('ZADD', p .. 'lost', exact(instant()), host)
end
local function there(host)
    if not redis.call('ZSCORE', p .. 'hosts', host) then return false end
    if redis.call('PUBSUB', 'NUMSUB', p .. 'to:' .. host_of(host))[2] > 0 then return true end
    lose(host)
    return false
end
local function may_be_back(host)
    local noticed = redis.call('ZSCORE', p .. 'lost', host)
    return noticed and instant() - noticed < patience
end
"""
)

# KEYS, here and where no other is named: the hosts. ARGV: prefix, HOST.N, the one before it or nothing. Gives the
# instant.
BEGIN = (
    _COMMON
    + """
if ARGV[3] ~= '' then lose(ARGV[3]) end
local now = exact(instant())
redis.call('ZADD', p .. 'hosts', now, ARGV[2])
return now
"""
)

# ARGV: prefix, HOST.N, seconds after which a beat is late. Gives the instant, and how many are to be cleaned up after;
# nothing if this host counts as dead.
BEAT = (
    _COMMON
    + """
if not redis.call('ZSCORE', p .. 'hosts', ARGV[2]) then return {} end
local now = instant()
redis.call('ZADD', p .. 'hosts', exact(now), ARGV[2])
local late = redis.call('ZRANGEBYSCORE', p .. 'hosts', '-inf', exact(now - ARGV[3]), 'LIMIT', 0, 100)
for _, host in ipairs(late) do
    redis.call('ZREM', p .. 'hosts', host)
    redis.call('SADD', p .. 'dead', host)
end
redis.call('ZREMRANGEBYSCORE', p .. 'lost', '-inf', exact(now - patience))
return {exact(now), redis.call('SCARD', p .. 'dead') - redis.call('ZCARD', p .. 'lost')}
"""
)

# ARGV: prefix, HOST.N. This host has gone.
END = (
    _COMMON
    + """
redis.call('ZREM', p .. 'hosts', ARGV[2])
redis.call('ZREM', p .. 'lost', ARGV[2])
redis.call('SADD', p .. 'dead', ARGV[2])
return 1
"""
)

# ARGV: prefix, names at most. Takes names of a dead host out; gives how many are still to be cleaned up after.
CLEAN = (
    _COMMON
    + """
local host
for _, dead in ipairs(redis.call('SMEMBERS', p .. 'dead')) do
    if not may_be_back(dead) then
        host = dead
        break
    end
end
if not host then return 0 end
local names = redis.call('SPOP', p .. 'of:' .. host, ARGV[2])
for _, name in ipairs(names) do
    redis.call('ZREM', p .. 'n:' .. name, 's' .. host, 'a' .. host)
end
if #names < tonumber(ARGV[2]) then redis.call('SREM', p .. 'dead', host) end
return redis.call('SCARD', p .. 'dead')
"""
)

# KEYS: the name. ARGV: prefix, HOST.N, name, instant, how (wire.SHARED, REPLACE, REFUSE). Gives the instant that
# counts, which is later than what was before, whatever the clocks say; 0 if it is taken, -1 if this host counts as
# dead, -2 if a host has the name that may be back.
JOIN = (
    _COMMON
    + """
local me, since, mode = ARGV[2], tonumber(ARGV[4]), ARGV[5]
if not redis.call('ZSCORE', p .. 'hosts', me) then return -1 end
local all = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
if #all > 0 and tonumber(all[#all]) >= since then since = all[#all] + 0.000001 end
if mode ~= '0' then
    local leave = {}
    for at = 1, #all, 2 do
        local host = string.sub(all[at], 2)
        if host_of(host) ~= host_of(me) then
            if not there(host) then
                if mode == '2' and may_be_back(host) then return -2 end
                redis.call('ZREM', KEYS[1], all[at])
            elseif mode == '2' then return 0
            else leave[all[at]] = host_of(host) end
        end
    end
    for member, host in pairs(leave) do
        redis.call('ZREM', KEYS[1], member)
        redis.call('PUBLISH', p .. 'evict:' .. host, exact(since) .. ' ' .. ARGV[3])
    end
    redis.call('ZREM', KEYS[1], 's' .. me)
end
redis.call('ZADD', KEYS[1], exact(since), (mode == '0' and 's' or 'a') .. me)
redis.call('SADD', p .. 'of:' .. me, ARGV[3])
return exact(since)
"""
)

# KEYS: names. ARGV: prefix, HOST.N, then of each name: itself, its instant, `s` or `a`. A host that has been away joins
# again, in the order of the instants. Gives the names that others hold alone since a later instant, each with it.
REJOIN = (
    _COMMON
    + """
local me, lost, kept = ARGV[2], {}, {}
if not redis.call('ZSCORE', p .. 'hosts', me) then return -1 end
for place, key in ipairs(KEYS) do
    local name, since, how = ARGV[3 * place], tonumber(ARGV[3 * place + 1]), ARGV[3 * place + 2]
    local all = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
    local later = false
    for at = 1, #all, 2 do
        local member, score, host = all[at], tonumber(all[at + 1]), string.sub(all[at], 2)
        if host_of(host) == host_of(me) then
            if host ~= me then redis.call('ZREM', key, member) end
        elseif not there(host) then redis.call('ZREM', key, member)
        elseif string.sub(member, 1, 1) == 'a' and score > since then later = all[at + 1]
        elseif how == 'a' then
            redis.call('PUBLISH', p .. 'evict:' .. host_of(host), exact(since) .. ' ' .. name)
            if score < since then redis.call('ZREM', key, member) end
        end
    end
    if later then
        lost[#lost + 1] = name
        lost[#lost + 1] = later
    else
        redis.call('ZADD', key, exact(since), how .. me)
        kept[#kept + 1] = name
    end
end
if #kept > 0 then redis.call('SADD', p .. 'of:' .. me, unpack(kept)) end
return lost
"""
)

# KEYS: the name. ARGV: prefix, HOST.N, data. Gives the other hosts that have been sent it; nothing, and not an empty
# list, if there is none but for one that may be back.
TO_ALL = (
    _COMMON
    + """
local mine, sent, seen, soon = host_of(ARGV[2]), {}, {}, false
for _, member in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
    local host = host_of(string.sub(member, 2))
    if host ~= mine and not seen[host] then
        if there(string.sub(member, 2)) then
            seen[host] = true
            redis.call('PUBLISH', p .. 'to:' .. host, ARGV[3])
            sent[#sent + 1] = host
        elseif may_be_back(string.sub(member, 2)) then soon = true
        else redis.call('ZREM', KEYS[1], member) end
    end
end
return (#sent > 0 or not soon) and sent
"""
)

# KEYS: the name. ARGV: prefix, HOST.N, data. Gives the host whose member has joined last, and which has been sent it;
# an empty text if there is none but for one that may be back.
TO_ONE = (
    _COMMON
    + """
local soon = false
for _, member in ipairs(redis.call('ZREVRANGE', KEYS[1], 0, -1)) do
    local host = string.sub(member, 2)
    if there(host) then
        redis.call('PUBLISH', p .. 'to:' .. host_of(host), ARGV[3])
        return host_of(host)
    end
    if may_be_back(host) then soon = true else redis.call('ZREM', KEYS[1], member) end
end
return soon and ''
"""
)

ALL = (BEGIN, BEAT, END, CLEAN, JOIN, REJOIN, TO_ALL, TO_ONE)
DIGEST = {script: sha1(script.encode(), usedforsecurity=False).hexdigest().encode() for script in ALL}
"""By which Redis knows a script that it has been sent once (EVALSHA)."""
