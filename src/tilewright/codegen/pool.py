"""The thread pool, as LLVM IR text: how the iterations of a parallel loop meet worker threads.

Knows one region at a time: a body `void(ptr env, i64 begin, i64 end)`, cut into chunks which the
calling thread and the workers claim one by one. Refuses to know what a body does, how many
threads there should be (`runtime/threads`), and Python: no function here needs the GIL.

One 64-bit word holds all that claiming a chunk depends on,

    generation (16 bits) | seats (16) | end (16) | next (16)

so a compare-and-swap that succeeds has claimed a chunk of the region that runs now, however long
the thread slept before. Pieces next <= k < end are free: the caller takes them from the front,
workers from the back, so that call after call a core meets the data it has in its cache. A chunk is
so many pieces in a row: large ones first, which cost little, and then smaller and smaller ones, so
that threads end together although their cores, or the iterations, are not equally fast (factoring:
Hummel, Schonberg, Flynn 1992). A worker takes a seat together with its first chunk. The caller
claims until nothing is left and then waits for claimed chunks only: a worker that was never
scheduled delays nobody. Whoever finds the pool taken, nested or concurrent, runs its region by
itself.

Idle workers spin for a while and then sleep on the word's upper half (Linux futex). Waking them
costs the caller microseconds, so a wake must be paid for by work: chunks add up over regions until
they are worth one. Sleepers are kept off the caller's core: a scheduler may wake them there, to
spare another core, and until it moves them they wait for the very thread that waits for them.
"""

from __future__ import annotations

from typing import Final

from tilewright.target import Target

PARALLEL: Final = "tilewright_parallel"
"""void(ptr body, ptr env, i64 extent, i64 unit, i64 grain, i64 weight, i64 limit): run body over
[0, extent), at least `grain` iterations in a chunk, on at most `limit` threads (0: no limit of its
own). `unit` iterations in a row share work that a chunk which begins among them does again: chunks
are whole units where these can be shared out evenly, and one for each thread where they cannot.
`grain` iterations are worth `weight` minimal chunks of work. A body is never called for an empty
stretch."""
EXPORTS: Final = "tilewright_pool"
"""void(ptr table, i64, i64): prepare the pool and write the addresses of `TABLE` to the table."""
TABLE: Final = ("parallel", "set_default", "set_own", "reset", "started")

MOST_THREADS: Final = 256
PIECES_PER_THREAD: Final = (4, 32)
"""At least, where there is work for so many, and at most: what threads wait for at the end is the
last chunks, of a piece each."""
PIECE_CHUNKS: Final = 4
"""Smallest chunks that a piece is worth where there are more pieces than the least. On two threads
a product of 10 us was 4 % slower in 16 pieces than in 8."""
SPINS: Final = 2000
"""Pauses (some 20 to 40 ns each) before an idle worker, or a caller at the end, sleeps."""
YIELD_SPINS: Final = 64
"""Of these, so many until the core is offered to others; a power of two."""
WAKE_CHUNKS: Final = 16
"""Minimal chunks of work that pay for waking sleeping workers."""
STACK_BYTES: Final = 8 << 20

_FUTEX_CALL: Final = {"x86_64": 202, "aarch64": 98}
_GETTID_CALL: Final = {"x86_64": 186, "aarch64": 178}
_PAUSE: Final = {
    "x86_64": "call void @llvm.x86.sse2.pause()",
    "aarch64": "call void @llvm.aarch64.isb(i32 15)",
}
_WAIT, _WAKE = 128, 129  # FUTEX_WAIT and FUTEX_WAKE, private to the process


def supported(target: Target) -> bool:
    """Whether the pool can be printed for a machine: its waiting is Linux's."""
    return _architecture(target) in _FUTEX_CALL and "linux" in target.triple


def _architecture(target: Target) -> str:
    return target.triple.split("-")[0]


def print_pool(target: Target) -> str:
    """The module. It has one external function, `EXPORTS`."""
    arch = _architecture(target)
    futex = f"call i64 (i64, ...) @syscall(i64 {_FUTEX_CALL[arch]}, ptr"
    parts = (_STATE, _CHUNK, _WORKER, _START, _PARALLEL, _JOIN, _PLACE, _SETTINGS)
    numbers = {
        "GETTID": _GETTID_CALL[arch], "PAUSE": _PAUSE[arch],
        "FUTEX": futex, "WAIT": f"i64 {_WAIT}", "WAKE": f"i64 {_WAKE}",
        "SPINS": SPINS, "POLITE": YIELD_SPINS - 1, "FEWEST": PIECES_PER_THREAD[0],
        "MANY": PIECES_PER_THREAD[1], "WORTH": PIECE_CHUNKS,
        "PAYS": WAKE_CHUNKS, "MOST": MOST_THREADS, "NUMBERS": 4 * MOST_THREADS,
        "STACK": STACK_BYTES, "NAME": EXPORTS,
    }  # fmt: skip
    text = "\n".join(parts)
    for name, value in numbers.items():
        text = text.replace(f"${name}", str(value))
    return text


_STATE: Final = """
%line = type { i64, [15 x i64] }
@claim = internal global %line zeroinitializer, align 128
@done = internal global %line zeroinitializer, align 128
@busy = internal global %line zeroinitializer, align 128
@sleepers = internal global %line zeroinitializer, align 128
@awaited = internal global %line zeroinitializer, align 128
@started = internal global i64 0, align 128
@refused = internal global i64 0
@debt = internal global i64 0
@known = internal global i64 0                    ; workers that wrote their number down
@workers = internal global [$MOST x i32] zeroinitializer
@avoided = internal global i32 -1                 ; the core that workers are kept off
@default = internal global i64 1
@key = internal global i32 0
%task = type { ptr, ptr, i64, i64, i64, i64 }     ; body, env, units, pieces, a unit's size, shares
@task = internal global %task zeroinitializer, align 128

declare i64 @syscall(i64, ...)
declare i32 @sched_yield()
declare i32 @sched_getcpu()
declare i32 @sched_getaffinity(i32, i64, ptr)
declare i32 @sched_setaffinity(i32, i64, ptr)
declare i32 @pthread_key_create(ptr, ptr)
declare ptr @pthread_getspecific(i32)
declare i32 @pthread_setspecific(i32, ptr)
declare i32 @pthread_attr_init(ptr)
declare i32 @pthread_attr_destroy(ptr)
declare i32 @pthread_attr_setstacksize(ptr, i64)
declare i32 @pthread_attr_setdetachstate(ptr, i32)
declare i32 @pthread_create(ptr, ptr, ptr, ptr)
declare i32 @pthread_sigmask(i32, ptr, ptr)
declare i32 @sigfillset(ptr)
declare i32 @sigdelset(ptr, i32)
declare i64 @llvm.umin.i64(i64, i64)
declare i64 @llvm.umax.i64(i64, i64)
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
declare i64 @llvm.vector.reduce.or.v16i64(<16 x i64>)
"""

_CHUNK: Final = """
; One more pause. Now and then whoever waits for this core may have it: if that is the thread we
; wait for, or the caller that we would help, spinning here would only keep it from its work.
define internal i64 @pause(i64 %spins) {
entry:
  $PAUSE
  %spun = add i64 %spins, 1
  %some = and i64 %spun, $POLITE
  %turn = icmp eq i64 %some, 0
  br i1 %turn, label %yield, label %out
yield:
  %rc = call i32 @sched_yield()
  br label %out
out:
  ret i64 %spun
}

define internal i1 @open(i64 %word) {
  %next = and i64 %word, 65535
  %shifted = lshr i64 %word, 16
  %end = and i64 %shifted, 65535
  %left = icmp ult i64 %next, %end
  ret i1 %left
}

; How many of the free pieces are claimed at once: two thirds of what is left for each thread.
define internal i64 @portion(i64 %word) {
  %next = and i64 %word, 65535
  %shifted = lshr i64 %word, 16
  %end = and i64 %shifted, 65535
  %left = sub i64 %end, %next
  %shares = load atomic i64, ptr getelementptr (%task, ptr @task, i32 0, i32 5) monotonic, align 8
  %double = shl i64 %left, 1
  %part = udiv i64 %double, %shares
  %size = call i64 @llvm.umax.i64(i64 %part, i64 1)
  ret i64 %size
}

; Run %size pieces from %k on, which are claimed, and count them. The last ones wake a caller that
; went to sleep over them; the region may be another by then, but a needless wake is harmless.
define internal void @run(i64 %k, i64 %size) {
entry:
  %body = load ptr, ptr @task
  %env = load ptr, ptr getelementptr (%task, ptr @task, i32 0, i32 1)
  %units = load i64, ptr getelementptr (%task, ptr @task, i32 0, i32 2)
  %pieces = load i64, ptr getelementptr (%task, ptr @task, i32 0, i32 3)
  %unit = load i64, ptr getelementptr (%task, ptr @task, i32 0, i32 4)
  %from = mul i64 %units, %k
  %low = udiv i64 %from, %pieces
  %begin = mul i64 %low, %unit
  %past = add i64 %k, %size
  %to = mul i64 %units, %past
  %high = udiv i64 %to, %pieces
  %end = mul i64 %high, %unit
  call void %body(ptr %env, i64 %begin, i64 %end)
  %before = atomicrmw add ptr @done, i64 %size seq_cst
  %count = add i64 %before, %size
  %last = icmp eq i64 %count, %pieces
  br i1 %last, label %check, label %out
check:
  %awaited = load atomic i64, ptr @awaited seq_cst, align 8
  %asleep = icmp ne i64 %awaited, 0
  br i1 %asleep, label %wake, label %out
wake:
  %woken = $FUTEX @done, $WAKE, i64 1)
  br label %out
out:
  ret void
}

; Claim and run chunks of one generation until none is left. %step is what claiming a piece adds to
; the word: 1 at the front, -65536 at the back.
define internal void @drain(i64 %mine, i64 %step) {
entry:
  %front = icmp eq i64 %step, 1
  br label %again
again:
  %word = load atomic i64, ptr @claim acquire, align 8
  %changed = xor i64 %word, %mine
  %generation = lshr i64 %changed, 48
  %same = icmp eq i64 %generation, 0
  %left = call i1 @open(i64 %word)
  %mayclaim = and i1 %same, %left
  br i1 %mayclaim, label %claim, label %out
claim:
  %size = call i64 @portion(i64 %word)
  %claimed = mul i64 %size, %step
  %following = add i64 %word, %claimed
  %swap = cmpxchg ptr @claim, i64 %word, i64 %following acq_rel monotonic, align 8
  %won = extractvalue { i64, i1 } %swap, 1
  br i1 %won, label %work, label %again
work:
  %next = and i64 %word, 65535
  %shifted = lshr i64 %following, 16
  %end = and i64 %shifted, 65535
  %k = select i1 %front, i64 %next, i64 %end
  call void @run(i64 %k, i64 %size)
  br label %again
out:
  ret void
}
"""

_WORKER: Final = """
define internal i1 @joinable(i64 %word) {
  %left = call i1 @open(i64 %word)
  %shifted = lshr i64 %word, 32
  %seats = and i64 %shifted, 65535
  %seat = icmp ne i64 %seats, 0
  %both = and i1 %left, %seat
  ret i1 %both
}

define internal ptr @worker(ptr %unused) {
entry:
  %number = call i64 (i64, ...) @syscall(i64 $GETTID)
  %tid = trunc i64 %number to i32
  %own = atomicrmw add ptr @known, i64 1 monotonic
  %place = getelementptr i32, ptr @workers, i64 %own
  store atomic i32 %tid, ptr %place release, align 4
  store atomic i32 -2, ptr @avoided release, align 4  ; this one is not kept off any core yet
  br label %look
look:
  %spins = phi i64 [ 0, %entry ], [ 0, %worked ], [ 0, %slept ], [ %spun, %spin ], [ 0, %take ]
  %word = load atomic i64, ptr @claim acquire, align 8
  %joins = call i1 @joinable(i64 %word)
  br i1 %joins, label %take, label %idle
take:                                             ; one seat and one chunk fewer
  %size = call i64 @portion(i64 %word)
  %claimed = mul i64 %size, -65536
  %seated = add i64 %word, -4294967296
  %taken = add i64 %seated, %claimed
  %swap = cmpxchg ptr @claim, i64 %word, i64 %taken acq_rel monotonic, align 8
  %won = extractvalue { i64, i1 } %swap, 1
  br i1 %won, label %worked, label %look
worked:
  %shifted = lshr i64 %taken, 16
  %k = and i64 %shifted, 65535
  call void @run(i64 %k, i64 %size)
  call void @drain(i64 %word, i64 -65536)
  br label %look
idle:
  %patient = icmp ult i64 %spins, $SPINS
  br i1 %patient, label %spin, label %sleep
spin:
  %spun = call i64 @pause(i64 %spins)
  br label %look
sleep:                                            ; counted first: a caller sees it, or we its word
  %others = atomicrmw add ptr @sleepers, i64 1 seq_cst
  %latest = load atomic i64, ptr @claim seq_cst, align 8
  %late = call i1 @joinable(i64 %latest)
  br i1 %late, label %slept, label %wait
wait:
  %upper = lshr i64 %latest, 32
  %seen = trunc i64 %upper to i32
  %rc = $FUTEX getelementptr (i8, ptr @claim, i64 4), $WAIT, i32 %seen, ptr null)
  br label %slept
slept:
  %awake = atomicrmw sub ptr @sleepers, i64 1 seq_cst
  br label %look
}
"""

_START: Final = """
; Have %wanted workers, or as many as the system allows. Signals are for the program's own threads.
define internal void @start(i64 %wanted) noinline {
entry:
  %attributes = alloca [128 x i8], align 16
  %every = alloca [128 x i8], align 16
  %old = alloca [128 x i8], align 16
  %thread = alloca i64
  %a = call i32 @pthread_attr_init(ptr %attributes)
  %b = call i32 @pthread_attr_setstacksize(ptr %attributes, i64 $STACK)
  %c = call i32 @pthread_attr_setdetachstate(ptr %attributes, i32 1)
  %d = call i32 @sigfillset(ptr %every)
  %ill = call i32 @sigdelset(ptr %every, i32 4)
  %bus = call i32 @sigdelset(ptr %every, i32 7)
  %fpe = call i32 @sigdelset(ptr %every, i32 8)
  %segv = call i32 @sigdelset(ptr %every, i32 11)
  %e = call i32 @pthread_sigmask(i32 2, ptr %every, ptr %old)
  br label %more
more:
  %started = load i64, ptr @started
  %refused = load i64, ptr @refused
  %few = icmp ult i64 %started, %wanted
  %allowed = icmp eq i64 %refused, 0
  %go = and i1 %few, %allowed
  br i1 %go, label %create, label %out
create:
  %rc = call i32 @pthread_create(ptr %thread, ptr %attributes, ptr @worker, ptr null)
  %bad = icmp ne i32 %rc, 0
  %no = zext i1 %bad to i64
  store i64 %no, ptr @refused
  %one = xor i64 %no, 1
  %now = add i64 %started, %one
  store i64 %now, ptr @started
  br label %more
out:
  %f = call i32 @pthread_sigmask(i32 2, ptr %old, ptr null)
  %g = call i32 @pthread_attr_destroy(ptr %attributes)
  ret void
}
"""

_PARALLEL: Final = """
; The smaller of the calling thread's own number and the region's limit; the default without both.
define internal i64 @threads(i64 %limit) {
  %key = load i32, ptr @key
  %p = call ptr @pthread_getspecific(i32 %key)
  %own = ptrtoint ptr %p to i64
  %default = load atomic i64, ptr @default monotonic, align 8
  %limited = icmp ne i64 %limit, 0
  %fallback = select i1 %limited, i64 %limit, i64 %default
  %chosen = icmp ne i64 %own, 0
  %first = select i1 %chosen, i64 %own, i64 %fallback
  %second = select i1 %limited, i64 %limit, i64 %first
  %both = call i64 @llvm.umin.i64(i64 %first, i64 %second)
  %count = call i64 @llvm.umin.i64(i64 %both, i64 $MOST)
  ret i64 %count
}

; Whether so many units leave a thread idle for more than a sixteenth of the time.
define internal i1 @uneven(i64 %units, i64 %count) {
  %rest = urem i64 %units, %count
  %some = icmp ne i64 %rest, 0
  %idle = sub i64 %count, %rest
  %share = shl i64 %idle, 4
  %long = icmp ugt i64 %share, %units
  %both = and i1 %some, %long
  ret i1 %both
}

define internal void @parallel(
    ptr %body, ptr %env, i64 %extent, i64 %unit, i64 %grain, i64 %weight, i64 %limit
) {
entry:
  %worth = udiv i64 %extent, %grain
  %much = icmp ugt i64 %worth, 1
  br i1 %much, label %ask, label %alone
ask:
  %count = call i64 @threads(i64 %limit)
  %several = icmp ugt i64 %count, 1
  br i1 %several, label %enter, label %alone
enter:
  %swap = cmpxchg ptr @busy, i64 0, i64 1 acquire monotonic, align 8
  %free = extractvalue { i64, i1 } %swap, 1
  br i1 %free, label %open, label %alone
open:
  %blocks = udiv i64 %extent, %unit
  %shared = icmp ne i64 %unit, 1
  %uneven = call i1 @uneven(i64 %blocks, i64 %count)
  %fine = and i1 %shared, %uneven
  %units = select i1 %fine, i64 %extent, i64 %blocks
  %size = select i1 %fine, i64 1, i64 %unit
  %few = mul i64 %count, $FEWEST
  %many = mul i64 %count, $MANY
  %large = udiv i64 %worth, $WORTH
  %some = call i64 @llvm.umax.i64(i64 %large, i64 %few)
  %cut = call i64 @llvm.umin.i64(i64 %some, i64 %many)
  %most = select i1 %fine, i64 %count, i64 %cut
  %able = call i64 @llvm.umin.i64(i64 %worth, i64 %units)
  %sum = call i64 @llvm.umin.i64(i64 %able, i64 %most)
  %odd = urem i64 %sum, %count                    ; equal pieces, as many for each thread
  %even = sub i64 %sum, %odd
  %plenty = icmp ne i64 %even, 0
  %pieces = select i1 %plenty, i64 %even, i64 %sum
  %together = call i64 @llvm.umin.i64(i64 %count, i64 %pieces)
  %seats = sub i64 %together, 1
  %shares = mul i64 %together, 3
  %started = load i64, ptr @started
  %enough = icmp uge i64 %started, %seats
  br i1 %enough, label %publish, label %grow
grow:
  call void @start(i64 %seats)
  br label %publish
publish:
  store ptr %body, ptr @task
  store ptr %env, ptr getelementptr (%task, ptr @task, i32 0, i32 1)
  store i64 %units, ptr getelementptr (%task, ptr @task, i32 0, i32 2)
  store i64 %pieces, ptr getelementptr (%task, ptr @task, i32 0, i32 3)
  store i64 %size, ptr getelementptr (%task, ptr @task, i32 0, i32 4)
  store atomic i64 %shares, ptr getelementptr (%task, ptr @task, i32 0, i32 5) monotonic, align 8
  store atomic i64 0, ptr @done monotonic, align 8
  %old = load atomic i64, ptr @claim monotonic, align 8
  %g0 = lshr i64 %old, 48
  %g1 = add i64 %g0, 1
  %g2 = shl i64 %g1, 48
  %s = shl i64 %seats, 32
  %p = shl i64 %pieces, 16
  %gs = or i64 %g2, %s
  %all = or i64 %gs, %p
  %first = call i64 @portion(i64 %all)            ; the caller has this chunk already
  %word = or i64 %all, %first
  %was = atomicrmw xchg ptr @claim, i64 %word seq_cst, align 8
  %work = mul i64 %worth, %weight
  call void @wake(i64 %seats, i64 %work)
  call void @run(i64 0, i64 %first)
  call void @drain(i64 %word, i64 1)
  call void @join(i64 %pieces)
  store atomic i64 0, ptr @busy release, align 8
  ret void
alone:
  %any = icmp sgt i64 %extent, 0
  br i1 %any, label %whole, label %none
whole:
  call void %body(ptr %env, i64 0, i64 %extent)
  ret void
none:
  ret void
}
"""

_JOIN: Final = """
; Wake as many sleepers as there are seats that awake workers cannot take, once it is paid for.
define internal void @wake(i64 %seats, i64 %work) {
entry:
  %sleepers = load atomic i64, ptr @sleepers seq_cst, align 8
  %started = load i64, ptr @started
  %awake = sub i64 %started, %sleepers
  %lacking = icmp sgt i64 %seats, %awake
  br i1 %lacking, label %count, label %out
count:
  %debt = load i64, ptr @debt
  %sum = add i64 %debt, %work
  store i64 %sum, ptr @debt
  %paid = icmp uge i64 %sum, $PAYS
  br i1 %paid, label %wake, label %out
wake:
  store i64 0, ptr @debt
  %core = call i32 @sched_getcpu()
  call void @place(i32 %core)
  %lack = sub i64 %seats, %awake
  %woken = $FUTEX getelementptr (i8, ptr @claim, i64 4), $WAKE, i64 %lack)
  br label %out
out:
  ret void
}

define internal void @join(i64 %pieces) {
entry:
  br label %look
look:
  %spins = phi i64 [ 0, %entry ], [ %spun, %spin ]
  %done = load atomic i64, ptr @done acquire, align 8
  %all = icmp eq i64 %done, %pieces
  br i1 %all, label %out, label %more
more:
  %patient = icmp ult i64 %spins, $SPINS
  br i1 %patient, label %spin, label %sleep
spin:
  %spun = call i64 @pause(i64 %spins)
  br label %look
sleep:                                            ; and leave the core to whoever has the chunk
  call void @place(i32 -1)
  store atomic i64 1, ptr @awaited seq_cst, align 8
  br label %check
check:
  %latest = load atomic i64, ptr @done seq_cst, align 8
  %finished = icmp eq i64 %latest, %pieces
  br i1 %finished, label %slept, label %wait
wait:
  %seen = trunc i64 %latest to i32
  %rc = $FUTEX @done, $WAIT, i32 %seen, ptr null)
  br label %check
slept:
  store atomic i64 0, ptr @awaited monotonic, align 8
  br label %out
out:
  ret void
}
"""

_PLACE: Final = """
; Keep the workers off a core (-1: off none); they may use all others that the caller may use. A
; caller that has one core only, or more than 1024, leaves them where they are.
define internal void @place(i32 %core) noinline {
entry:
  %mask = alloca [16 x i64], align 16
  %avoided = load atomic i32, ptr @avoided monotonic, align 4
  %moved = icmp ne i32 %core, %avoided
  br i1 %moved, label %ask, label %out
ask:
  store <16 x i64> zeroinitializer, ptr %mask, align 16
  %rc = call i32 @sched_getaffinity(i32 0, i64 128, ptr %mask)
  %bad = icmp slt i32 %rc, 0
  br i1 %bad, label %out, label %choose
choose:
  %one = icmp ult i32 %core, 1024
  br i1 %one, label %exclude, label %start
exclude:
  %wide = zext i32 %core to i64
  %index = lshr i64 %wide, 6
  %shift = and i64 %wide, 63
  %bit = shl i64 1, %shift
  %others = xor i64 %bit, -1
  %word = getelementptr i64, ptr %mask, i64 %index
  %old = load i64, ptr %word
  %new = and i64 %old, %others
  store i64 %new, ptr %word
  %every = load <16 x i64>, ptr %mask, align 16
  %any = call i64 @llvm.vector.reduce.or.v16i64(<16 x i64> %every)
  %none = icmp eq i64 %any, 0
  br i1 %none, label %out, label %start
start:
  store atomic i32 %core, ptr @avoided monotonic, align 4
  %count = load atomic i64, ptr @known acquire, align 8
  br label %each
each:
  %k = phi i64 [ 0, %start ], [ %following, %move ]
  %more = icmp ult i64 %k, %count
  br i1 %more, label %move, label %out
move:
  %place = getelementptr i32, ptr @workers, i64 %k
  %tid = load atomic i32, ptr %place acquire, align 4
  %done = call i32 @sched_setaffinity(i32 %tid, i64 128, ptr %mask)
  %following = add i64 %k, 1
  br label %each
out:
  ret void
}
"""

_SETTINGS: Final = """
define internal void @set_default(i64 %count) {
  store atomic i64 %count, ptr @default monotonic, align 8
  ret void
}

; The calling thread's own number of threads (0: none); its number until now comes back.
define internal i64 @set_own(i64 %count) {
  %key = load i32, ptr @key
  %p = call ptr @pthread_getspecific(i32 %key)
  %before = ptrtoint ptr %p to i64
  %q = inttoptr i64 %count to ptr
  %rc = call i32 @pthread_setspecific(i32 %key, ptr %q)
  ret i64 %before
}

define internal i64 @get_started() {
  %n = load i64, ptr @started
  ret i64 %n
}

; In the child of a fork: its parent's workers, and regions of its parent's threads, are not there.
define internal void @reset() {
  store i64 0, ptr @claim
  store i64 0, ptr @done
  store i64 0, ptr @busy
  store i64 0, ptr @sleepers
  store i64 0, ptr @awaited
  store i64 0, ptr @started
  store i64 0, ptr @refused
  store i64 0, ptr @debt
  store i64 0, ptr @known
  call void @llvm.memset.p0.i64(ptr @workers, i8 0, i64 $NUMBERS, i1 false)
  store i32 -1, ptr @avoided
  ret void
}

define void @$NAME(ptr %table, i64, i64) {
  %rc = call i32 @pthread_key_create(ptr @key, ptr null)
  store ptr @parallel, ptr %table
  %t1 = getelementptr ptr, ptr %table, i64 1
  store ptr @set_default, ptr %t1
  %t2 = getelementptr ptr, ptr %table, i64 2
  store ptr @set_own, ptr %t2
  %t3 = getelementptr ptr, ptr %table, i64 3
  store ptr @reset, ptr %t3
  %t4 = getelementptr ptr, ptr %table, i64 4
  store ptr @get_started, ptr %t4
  ret void
}
"""
