// The simulated device's scheduler: blocks one after another, the threads of a block as fibers.
//
//   round     the threads that can run, in the chosen order; each runs until it waits or returns
//   refill    after a round every thread waits, has returned or was held back: complete what can be completed
//
// A fiber is a stack. It runs thread after thread until one waits; that thread then owns the stack, and the
// next thread starts on another. So threads that never wait share one stack and are a plain loop.
//
// The orders: forward; reversed; shuffled, with some warps held back for a while; shuffled, with one warp at a time
// running ahead as far as barriers let it, because a missing barrier shows only when one warp gets ahead of another.
// Blocks follow the order too.
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../gz.cuh"

#if defined(__SANITIZE_ADDRESS__)
#define GZ_ASAN 1
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if !defined(__x86_64__) && !defined(GZ_UCONTEXT)
#define GZ_UCONTEXT 1
#endif
#ifdef GZ_UCONTEXT
#include <ucontext.h>
#endif

gz_dim3 threadIdx, blockIdx, blockDim, gridDim;

extern "C" {  // the ends of the section that __shared__ variables lie in; absent where a kernel has none
extern __attribute__((weak, visibility("hidden"))) u8 __start_gz_shared[], __stop_gz_shared[];
}

namespace {

enum State : u8 { READY, RUNNING, AT_BARRIER, AT_WARP, RETURNED };

struct Thread {
    State state;
    i32 fiber;  // the stack it owns while it waits; -1: not started
    u32 op, mask, source;
    u64 value;  // given to the barrier or warp operation, then what that returns
    const char* file;
    i32 line;
};

struct Fiber {
#ifdef GZ_UCONTEXT
    ucontext_t context;
#else
    void* sp;
#endif
    u8* stack;
    const void* bottom;
    size_t size;
    void* fake;
};

const i32 MOST = 1024, CALLER = MOST;
#ifdef GZ_ASAN
const size_t STACK = 512 << 10;
#else
const size_t STACK = 128 << 10;
#endif

Thread thread[MOST];
Fiber fiber[MOST + 1];
i32 fibers, idle[MOST], idle_count, running = CALLER, came_from, starting;
i32 round_[MOST], round_length, cursor, current, threads, order;
i64 blocks, block_count, stride;
u32 held;  // a bit for each warp that does not run for now
u64 seed;
bool failed;
void (*body)();
char* report;
size_t report_size;

u32 random_below(u32 n) {
    seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
    return (u32)((seed >> 32) * n >> 32);
}

const char* base(const char* path) {
    const char* slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

// ---- fibers

void worker();

#ifndef GZ_UCONTEXT
extern "C" void gz_host_switch(void** from, void* to);
__asm__(R"(
.text
.p2align 4
.type gz_host_switch, @function
gz_host_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size gz_host_switch, .-gz_host_switch
)");
#endif

void landed() {
#ifdef GZ_ASAN
    const void* bottom;
    size_t size;
    __sanitizer_finish_switch_fiber(fiber[running].fake, &bottom, &size);
    if (came_from == CALLER) fiber[CALLER].bottom = bottom, fiber[CALLER].size = size;
#endif
}

void go(i32 to) {
    i32 from = running;
    came_from = from, running = to;
#ifdef GZ_ASAN
    __sanitizer_start_switch_fiber(&fiber[from].fake, fiber[to].bottom, fiber[to].size);
#endif
#ifdef GZ_UCONTEXT
    swapcontext(&fiber[from].context, &fiber[to].context);
#else
    gz_host_switch(&fiber[from].sp, fiber[to].sp);
#endif
    landed();
}

void begin() {
    landed();
    worker();
}

void prepare(Fiber& f) {
#ifdef GZ_ASAN
    __asan_unpoison_memory_region(f.stack, STACK);  // an abandoned thread leaves its red zones behind
#endif
    f.bottom = f.stack, f.size = STACK, f.fake = nullptr;
#ifdef GZ_UCONTEXT
    getcontext(&f.context);
    f.context.uc_stack.ss_sp = f.stack, f.context.uc_stack.ss_size = STACK, f.context.uc_link = nullptr;
    makecontext(&f.context, begin, 0);
#else
    void** top = (void**)(f.stack + STACK);
    top[-2] = (void*)begin;  // where the switch returns to; six saved registers lie below
    f.sp = top - 8;
#endif
}

i32 take_idle() {
    if (idle_count) return idle[--idle_count];
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    int how = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    u8* mapped = (u8*)mmap(nullptr, STACK + page, PROT_READ | PROT_WRITE, how, -1, 0);
    if (mapped == MAP_FAILED) abort();
    mprotect(mapped, page, PROT_NONE);  // running off a stack is a fault, not a neighbour's bytes
    fiber[fibers].stack = mapped + page;
    prepare(fiber[fibers]);
    return fibers++;
}

__attribute__((format(printf, 1, 2))) void say(const char* format, ...) {
    size_t said = strlen(report);
    va_list values;
    va_start(values, format);
    vsnprintf(report + said, report_size - said, format, values);
    va_end(values);
}

[[noreturn]] void fail() {
    failed = true;
    go(CALLER);
    abort();
}

// ---- rounds

void exchange(i32 i, i32 j) {
    i32 t = round_[i];
    round_[i] = round_[j], round_[j] = t;
}

// The threads that can run become the next round. False if there are none.
bool gather() {
    i32 ready = 0, free = 0;
    for (i32 t = 0; t < threads; t++)
        if (thread[t].state == READY) round_[ready++] = t, free += !(held >> (t >> 5) & 1);
    if (order == 2 && random_below(8) == 0) held = random_below(0xFFFFFFFFu);
    if (order == 3 && ready && !free) held = ~(1u << (round_[random_below((u32)ready)] >> 5));
    i32 kept = 0;
    for (i32 i = 0; i < ready && order >= 2; i++)
        if (!(held >> (round_[i] >> 5) & 1)) exchange(i, kept++);
    round_length = kept ? kept : ready, cursor = 0;
    for (i32 i = round_length - 1; i > 0 && order >= 2; i--) exchange(i, (i32)random_below((u32)i + 1));
    for (i32 i = 0; i < round_length / 2 && order == 1; i++) exchange(i, round_length - 1 - i);
    return round_length > 0;
}

#ifdef GZ_ASAN
__attribute__((no_sanitize_address))
#endif
void fill_shared() {  // with garbage: nothing outlives a block
    for (volatile u8* p = __start_gz_shared; p < __stop_gz_shared; p++) *p = 0xA5;
}

bool start_block() {
    if (blocks == block_count) return false;
    i64 k = blocks++;
    if (order == 1) k = block_count - 1 - k;
    if (order >= 2)  // a permutation
        k = (i64)(((unsigned __int128)(u64)k * (u64)stride + (u64)order) % (u64)block_count);
    blockIdx.x = (u32)k;
    fill_shared();
    for (i32 t = 0; t < threads; t++) thread[t].state = READY, thread[t].fiber = -1;
    held = order == 3 ? ~0u : 0;
    return gather();
}

// Give the lanes of a warp what they wait for, once all that any of them names have come.
void complete_warp(i32 first) {
    i32 lanes = threads - first < 32 ? threads - first : 32;
    Thread* lane = thread + first;
    for (i32 i = 0; i < lanes; i++) {
        if (lane[i].state != AT_WARP || lane[i].op == GZ_ACTIVE) continue;
        u32 group = 0, votes = 0;
        bool whole = true;
        for (i32 j = 0; j < lanes && whole; j++) {
            if (!(lane[i].mask >> j & 1) || lane[j].state == RETURNED) continue;
            bool same_place = lane[j].line == lane[i].line && lane[j].file == lane[i].file;
            whole = lane[j].state == AT_WARP && lane[j].op == lane[i].op && lane[j].mask == lane[i].mask &&
                    (same_place || lane[i].op == GZ_SYNCWARP);
            group |= 1u << j, votes |= (u32)(lane[j].value != 0) << j;
        }
        if (!whole) continue;
        u64 given[32];
        for (i32 j = 0; j < lanes; j++) given[j] = lane[j].value;
        for (i32 j = 0; j < lanes; j++) {
            if (!(group >> j & 1)) continue;
            if (lane[j].op == GZ_SHFL) {  // a lane that takes no part gives anything
                u32 from = lane[j].source & 31;
                lane[j].value = group >> from & 1 ? given[from] : 0xA5A5A5A5A5A5A5A5ull;
            }
            if (lane[j].op == GZ_BALLOT) lane[j].value = votes;
            if (lane[j].op == GZ_ANY) lane[j].value = votes != 0;
            if (lane[j].op == GZ_ALL) lane[j].value = votes == group;
            lane[j].state = READY;
        }
    }
}

// Nothing else can run: the lanes that ask together who is active are.
bool complete_active() {
    bool any = false;
    for (i32 t = 0; t < threads; t++) {
        if (thread[t].state != AT_WARP || thread[t].op != GZ_ACTIVE) continue;
        i32 first = t & ~31;
        u32 group = 0;
        for (i32 j = t; j < threads && j < first + 32; j++)
            if (thread[j].state == AT_WARP && thread[j].op == GZ_ACTIVE && thread[j].line == thread[t].line)
                group |= 1u << (j - first);
        for (i32 j = t; j < threads && j < first + 32; j++)
            if (group >> (j - first) & 1) thread[j].state = READY, thread[j].value = group;
        any = true;
    }
    return any;
}

bool complete_barrier() {
    i32 count = 0;
    for (i32 t = 0; t < threads; t++) {
        const Thread &a = thread[0], &b = thread[t];
        if (b.state != AT_BARRIER || b.line != a.line || b.file != a.file || b.op != a.op) return false;
        count += (i32)b.value != 0;
    }
    u32 vote = thread[0].op;
    i32 result = vote == GZ_COUNT ? count : vote == GZ_OR ? count > 0 : vote == GZ_AND ? count == threads : 0;
    for (i32 t = 0; t < threads; t++) thread[t].state = READY, thread[t].value = (u64)result;
    return true;
}

[[noreturn]] void stuck() {
    i32 at = -1, reached = 0, other = -1;
    for (i32 t = 0; t < threads; t++)
        if (thread[t].state == AT_BARRIER && (at < 0 || thread[t].line == thread[at].line)) {
            if (at < 0) at = t;
            reached++;
        }
    if (at < 0)
        for (at = 0; thread[at].state != AT_WARP;) at++;
    const Thread& waits = thread[at];
    bool barrier = waits.state == AT_BARRIER;
    for (i32 t = 0; t < threads && other < 0; t++) {
        const Thread& b = thread[t];
        bool named = t / 32 == at / 32 && t != at && waits.mask >> (t & 31) & 1 && b.state != RETURNED;
        if (barrier ? b.state != AT_BARRIER || b.line != waits.line : named) other = t;
    }
    if (barrier)
        say("the barrier at %s:%d is reached by %d of the %d threads of block %u", base(waits.file), waits.line,
            reached, threads, blockIdx.x);
    else
        say("thread %d of block %u waits at %s:%d for the lanes %08x of its warp", at, blockIdx.x,
            base(waits.file), waits.line, waits.mask);
    if (other >= 0 && thread[other].state == RETURNED)
        say("; thread %d has returned", other);
    else if (other >= 0)
        say("; thread %d waits at %s:%d", other, base(thread[other].file), thread[other].line);
    fail();
}

bool refill() {
    i32 returned = 0;
    for (i32 t = 0; t < threads; t++) returned += thread[t].state == RETURNED;
    if (returned == threads) return start_block();
    for (i32 first = 0; first < threads; first += 32) complete_warp(first);
    if (gather()) return true;
    if (!complete_active() && !complete_barrier()) stuck();
    return gather();
}

// The next thread to run, now marked as running; -1 at the end of the launch.
i32 next() {
    while (cursor == round_length)
        if (!refill()) return -1;
    current = round_[cursor++];
    threadIdx.x = (u32)current;
    thread[current].state = RUNNING;
    return current;
}

void worker() {
    for (;;) {
        i32 t = starting;
        starting = -1;
        if (t < 0) t = next();
        if (t < 0 || thread[t].fiber >= 0) {
            idle[idle_count++] = running;
            go(t < 0 ? CALLER : thread[t].fiber);
            continue;
        }
        thread[t].fiber = running;
        body();
        thread[current].state = RETURNED;
    }
}

u64 wait(State state, u32 op, u32 mask, u64 value, u32 source, const char* file, i32 line) {
    i32 me = current;
    Thread& self = thread[me];
    self.op = op, self.mask = mask, self.value = value, self.source = source;
    self.file = file, self.line = line, self.state = state;
    i32 t = next();  // never -1: this thread has not returned
    if (thread[t].fiber < 0) {
        starting = t;
        go(take_idle());
    } else if (t != me)
        go(thread[t].fiber);
    return thread[me].value;
}

}  // namespace

i32 gz_host_barrier(gz_vote vote, i32 value, const char* file, i32 line) {
    return (i32)wait(AT_BARRIER, vote, 0, (u64)(u32)value, 0, file, line);
}

u64 gz_host_warp(gz_op op, u32 mask, u64 value, u32 source, const char* file, i32 line) {
    if (op != GZ_ACTIVE && !(mask >> (current & 31) & 1)) {
        say("thread %d of block %u calls a warp operation at %s:%d without being in its mask %08x", current,
            blockIdx.x, base(file), line, mask);
        fail();
    }
    return wait(AT_WARP, op, mask, value, source, file, line);
}

void gz_host_trap(const char* file, i32 line) {
    say("thread %d of block %u trapped at %s:%d", current, blockIdx.x, base(file), line);
    fail();
}

// Run one launch to its end. 0, or 1 with what went wrong in `text`. One launch at a time in a process.
extern "C" __attribute__((visibility("hidden")))
i32 gz_host_run(void (*thread_body)(), i64 n_blocks, i32 n_threads, i32 thread_order, char* text, i64 size) {
    if (failed) {  // the threads of a failed launch still lie on their stacks: take those back
        idle_count = 0;
        for (i32 i = fibers - 1; i >= 0; i--) prepare(fiber[i]), idle[idle_count++] = i;
    }
    body = thread_body, blocks = 0, block_count = n_blocks, threads = n_threads, order = thread_order;
    text[0] = 0, report = text, report_size = (size_t)size, failed = false, starting = -1;
    seed = 0x9E3779B97F4A7C15ull * (u64)(order + 1);
    for (stride = n_blocks / 2 + 1;; stride++) {  // no divisor in common with the number of blocks
        i64 a = stride, b = n_blocks;
        while (b) {
            i64 rest = a % b;
            a = b, b = rest;
        }
        if (a == 1) break;
    }
    blockDim = {(u32)n_threads, 1, 1}, gridDim = {(u32)n_blocks, 1, 1};
    cursor = round_length = 0;
    if (!start_block()) return 0;
    go(take_idle());
    return failed ? 1 : 0;
}
