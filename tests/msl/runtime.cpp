// runtime.cpp: runs the threads of one threadgroup after another as fibers, with exact barriers and simdgroup
// operations, and checks every memory access through the hooks that -fsanitize=thread makes the compiler insert.
#include <dlfcn.h>
#include <link.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <ucontext.h>

namespace {

// ---- what the harness hands over (emulator.py mirrors these)

struct Buffer {
  const char* name;
  void* data;
  uint64_t bytes;
  uint32_t element, writable;
  uint64_t unwritten, first_unwritten;  // results, in elements
};
struct ThreadInfo {  // mirrored in the generated entry function
  uint32_t position_in_grid[3], position_in_group[3], group[3], group_size[3], groups[3];
  uint32_t index, lane, simdgroup, simdgroups;
};
struct Launch {
  void (*entry)(void* const*, const ThreadInfo*);
  Buffer* buffers;
  int buffer_count, threads;
  uint32_t groups[3];
  uint32_t together;  // neighbouring threadgroups of which a later one may wait for an earlier one: these stay in order
  int order;  // 0 forward, 1 reverse, 2 random: of threads, simdgroups and threadgroups
  uint32_t seed;
  int time_limit_ms;
  uint64_t threadgroup_limit;
  char* error;
  int error_size;
  char kind[24];
  int line;
  uint64_t code_offset;
  uint64_t accesses, barriers, threadgroup_bytes;
};

// ---- memory: every buffer 64 GiB from the next, so that no wrong 32-bit index reaches a neighbour

constexpr uint64_t ARENA = 0x200000000000ull, SLOT = 1ull << 36;
constexpr int BUFFERS = 32, ARRAYS = 32, SLOTS = BUFFERS + ARRAYS;
constexpr int MAX_THREADS = 1024, LANES = 32;
constexpr size_t STACK = 128 << 10, PAGE = 4096;

constexpr uint32_t IN_PLACE = 2;  // Buffer.writable of an input that is written to: what it holds may be read

enum Space { DEVICE, THREADGROUP };
struct Cell {  // of one byte: who wrote and read it last. Threads are numbered from 1 over the whole grid
  uint32_t writer, write_epoch, write_simd, reader, read_epoch, read_simd;
  uint8_t readers;  // 0 one lane, 1 lanes of one simdgroup, 2 more
  uint8_t atomic, written;
};
struct Region {
  const char* name;
  uint64_t start, bytes, mapped;
  uint32_t element;
  Space space;
  bool on, writable;
  Cell* cells;
};
Region regions[SLOTS];

struct Fiber {
  jmp_buf context;
  uint8_t* stack;
  enum { NEW, READY, AT_SIMD, AT_BARRIER, DONE } state;
  uint32_t index, lane, simd, flags;
  int line, uniform;
  const char* what;
  uint32_t fenced;       // the epoch of device memory at its last fence, if it has not stored since; else 0
  uint64_t took, holds;  // the atomic it changed last, before and after a fence: it sees what was released there
};
// What a threadgroup let others see with an atomic operation after a fence: what its threads stored before the barrier
// that came before that, and all that the thread itself had stored.
struct Release {
  uint64_t at;
  uint32_t thread, epoch;
};
struct Post {  // as msl_post in host.h
  alignas(16) unsigned char value[64];
  int32_t argument, present;
};
struct Simdgroup {
  Post posts[2][LANES];
  int side;           // posts are double: a lane may post again before another has read
  uint32_t epoch[2];  // by space
};

Fiber fibers[MAX_THREADS];
Simdgroup simdgroups[MAX_THREADS / LANES];
ThreadInfo infos[MAX_THREADS];
Launch* launch;
void* arguments[BUFFERS];
uint8_t* stacks;
jmp_buf scheduler;
Fiber* current;
uint32_t group_number, epochs[2], first_epoch, random_state;
Release* releases;    // of each threadgroup, the last one
uint64_t group_holds;  // what all threads of this one see, after a barrier
uint64_t image_start, image_end;
bool failed;
pthread_t runner;  // whose stacks they are: a signal may come to any thread
ucontext_t fiber_context;

[[noreturn]] void leave() { _longjmp(scheduler, 2); }

void fail(const char* kind, void* code, int line, const char* format, ...) {
  if (failed) return;
  failed = true;
  snprintf(launch->kind, sizeof launch->kind, "%s", kind);
  launch->line = line;
  Dl_info where;
  launch->code_offset = code && dladdr(code, &where) ? (uint64_t)code - (uint64_t)where.dli_fbase : 0;
  va_list list;
  va_start(list, format);
  int n = vsnprintf(launch->error, launch->error_size, format, list);
  va_end(list);
  if (current && n < launch->error_size)
    snprintf(launch->error + n, launch->error_size - n, " (thread %u of threadgroup %u)", current->index, group_number);
}
#define FAIL(...)         \
  do {                    \
    fail(__VA_ARGS__);    \
    if (current) leave(); \
  } while (0)

// ---- the checks of one access

uint32_t thread_number() { return group_number * MAX_THREADS + current->index + 1; }
bool same_group(uint32_t a) { return (a - 1) / MAX_THREADS == group_number; }
bool same_simdgroup(uint32_t a) { return same_group(a) && (a - 1) % MAX_THREADS / LANES == current->simd; }

// Whether a store to device memory by a thread of another threadgroup was released, and acquired since.
bool released(uint32_t other, uint32_t epoch) {
  const Release& release = releases[(other - 1) / MAX_THREADS];
  if (!release.at || (release.at != current->holds && release.at != group_holds)) return false;
  return epoch < release.epoch || (epoch == release.epoch && release.thread == other);
}

// Whether what `other` did in that epoch is ordered before what the current thread does now.
bool ordered(const Region& r, uint32_t other, uint32_t epoch, uint32_t simd_epoch, bool one_simdgroup) {
  if (!same_group(other)) return r.space == DEVICE && released(other, epoch);
  if (epoch < epochs[r.space]) return true;
  return one_simdgroup && same_simdgroup(other) && simd_epoch != simdgroups[current->simd].epoch[r.space];
}

void race(const Region& r, uint64_t offset, const char* mine, const char* theirs, uint32_t other, void* code,
          int line) {
  FAIL("race", code, line,
       "data race on %s '%s', element %llu: this %s and a %s by thread %u of threadgroup %u, with no barrier (of the "
       "right mem_flags, and between threadgroups an atomic operation and fences) between",
       r.space == THREADGROUP ? "threadgroup array" : "output", r.name, (unsigned long long)(offset / r.element), mine,
       theirs, (other - 1) % MAX_THREADS, (other - 1) / MAX_THREADS);
}

bool is_written(const Region& r, const Cell& c) {
  return c.written && (r.space == DEVICE || c.write_epoch >= first_epoch);  // threadgroup memory starts anew
}

void check_read(const Region& r, const Cell& c, uint64_t offset, bool atomic, void* code, int line) {
  if (!is_written(r, c))
    FAIL("uninitialised", code, line, "load of %s '%s', element %llu, that nobody has written",
         r.space == THREADGROUP ? "threadgroup array" : "output", r.name, (unsigned long long)(offset / r.element));
  if (c.writer && c.writer != thread_number() && !(atomic && c.atomic) && !ordered(r, c.writer, c.write_epoch, c.write_simd, true))
    race(r, offset, "load", "store", c.writer, code, line);
}

void check_write(const Region& r, const Cell& c, uint64_t offset, bool atomic, void* code, int line) {
  uint32_t me = thread_number();
  if (atomic && c.atomic) return;
  if (is_written(r, c) && c.writer && c.writer != me && !ordered(r, c.writer, c.write_epoch, c.write_simd, true))
    race(r, offset, "store", "store", c.writer, code, line);
  bool read = c.reader && (r.space == DEVICE || c.read_epoch >= first_epoch);
  if (read && (c.reader != me || c.readers) &&
      !(same_group(c.reader) && ordered(r, c.reader, c.read_epoch, c.read_simd, c.readers < 2)))
    race(r, offset, "store", "load", c.reader, code, line);
}

void note_read(const Region& r, Cell& c) {
  uint32_t simd_epoch = simdgroups[current->simd].epoch[r.space];
  bool fresh = !c.reader || !same_group(c.reader) || c.read_epoch != epochs[r.space];
  if (fresh)
    c.readers = 0, c.reader = thread_number();
  else if (!same_simdgroup(c.reader))
    c.readers = 2;
  else if (c.readers < 2 && c.read_simd != simd_epoch)
    c.readers = 0, c.reader = thread_number();
  else if (c.readers < 2 && c.reader != thread_number())
    c.readers = 1;
  c.read_epoch = epochs[r.space];
  c.read_simd = simd_epoch;
}

void note_write(const Region& r, Cell& c, bool atomic) {
  c.writer = thread_number();
  c.write_epoch = epochs[r.space];
  c.write_simd = simdgroups[current->simd].epoch[r.space];
  c.written = 1;
  c.atomic = atomic;
  if (r.space == DEVICE && !atomic) current->fenced = 0;
}

void touch(Region& r, uint64_t offset, size_t bytes, bool write, bool atomic, void* code, int line) {
  for (uint64_t b = offset; b < offset + bytes; b++) {
    Cell& c = r.cells[b];
    if (write)
      check_write(r, c, b, atomic, code, line), note_write(r, c, atomic);
    else
      check_read(r, c, b, atomic, code, line), note_read(r, c);
  }
}

Region* region_of(uint64_t address, size_t bytes, bool write, void* code, int line) {
  if (address - ARENA >= SLOT * SLOTS) return nullptr;
  Region& r = regions[(address - ARENA) / SLOT];
  if (!r.on) return nullptr;
  uint64_t offset = address - r.start;
  if (offset >= r.bytes || offset + bytes > r.bytes) {
    long long element =
        (long long)offset >= 0 ? (long long)offset / r.element : -((-(long long)offset + r.element - 1) / r.element);
    FAIL("out_of_bounds", code, line, "%s of %zu bytes at element %lld of '%s', which has %llu elements",
         write ? "store" : "load", bytes, element, r.name, (unsigned long long)(r.bytes / r.element));
  }
  return &r;
}

void access(uint64_t address, size_t bytes, bool write, void* code) {
  if (!current) return;
  launch->accesses++;
  if (address - (uint64_t)current->stack < STACK) return;
  if (Region* r = region_of(address, bytes, write, code, 0)) {
    if (r->writable)
      touch(*r, address - r->start, bytes, write, false, code, 0);
    else if (write)
      FAIL("const_store", code, 0, "store into input '%s'", r->name);
    return;
  }
  if (address >= image_start && address < image_end) {
    if (write) FAIL("const_store", code, 0, "store to a static variable, which Metal does not have");
    return;
  }
  FAIL("wild_access", code, 0, "%s of %zu bytes outside of every buffer, at %llx", write ? "store" : "load", bytes,
       (unsigned long long)address);
}

// ---- fibers

void run_kernel() {
  launch->entry(arguments, &infos[current->index]);
  current->state = Fiber::DONE;
  _longjmp(scheduler, 1);
}

void pause(int state) {
  current->state = decltype(current->state)(state);
  if (!_setjmp(current->context)) _longjmp(scheduler, 1);
}

void resume(Fiber& f) {
  current = &f;
  int back = _setjmp(scheduler);
  if (!back) {
    if (f.state != Fiber::NEW) _longjmp(f.context, 1);
    f.state = Fiber::READY;
    getcontext(&fiber_context);
    fiber_context.uc_stack = {.ss_sp = f.stack, .ss_flags = 0, .ss_size = STACK};
    makecontext(&fiber_context, run_kernel, 0);
    setcontext(&fiber_context);
  }
  current = nullptr;
}

void on_alarm(int) {
  if (!pthread_equal(pthread_self(), runner)) {
    pthread_kill(runner, SIGALRM);
    return;
  }
  fail("timeout", 0, 0, "the time limit is over: an endless loop?");
  if (current) leave();
}

void on_fault(int signal_number, siginfo_t* info, void*) {
  if (!current || !pthread_equal(pthread_self(), runner)) {
    signal(signal_number, SIG_DFL);
    raise(signal_number);
    return;
  }
  uint64_t at = (uint64_t)info->si_addr;
  if ((uint64_t)current->stack - at < 64 << 20)
    fail("stack", 0, 0, "more than %zu KiB of private memory", STACK >> 10);
  else
    fail("wild_access", 0, 0, "access to unmapped memory at %llx", (unsigned long long)at);
  leave();
}

// ---- scheduling

uint32_t random_number() {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 17;
  return random_state ^= random_state << 5;
}

void permute(int* order, int count) {
  for (int i = 0; i < count; i++) order[i] = launch->order == 1 ? count - 1 - i : i;
  if (launch->order != 2) return;
  for (int i = count - 1; i > 0; i--) {
    int j = random_number() % (i + 1), t = order[i];
    order[i] = order[j];
    order[j] = t;
  }
}

void describe(char* text, size_t size, int from, int to) {  // "0-31 at simd_sum, line 3; 32-63 returned"
  size_t n = 0;
  text[0] = 0;
  for (int i = from, j; i < to && n + 100 < size; i = j) {
    Fiber& f = fibers[i];
    for (j = i + 1; j < to && fibers[j].state == f.state && fibers[j].line == f.line && fibers[j].what == f.what;) j++;
    n += snprintf(text + n, size - n, "%s%d-%d ", n ? "; " : "", i - from, j - 1 - from);
    n += f.state == Fiber::DONE ? snprintf(text + n, size - n, "returned")
                                : snprintf(text + n, size - n, "at %s, line %d", f.what, f.line);
  }
}

// All lanes wait at the same operation: let them have each other's values.
void release_simdgroup(int simd, int from) {
  Simdgroup& s = simdgroups[simd];
  Post* posts = s.posts[s.side];
  for (int i = 0; i < LANES; i++) {
    Fiber& f = fibers[from + i];
    if (f.uniform && posts[i].argument != posts[0].argument)
      fail("simd_divergence", 0, f.line, "%s: its lane or delta is %d in lane 0 and %d in lane %d", f.what,
           posts[0].argument, posts[i].argument, i);
    posts[i].present = 1;
    f.state = Fiber::READY;
  }
  if (fibers[from].flags & 1) s.epoch[DEVICE]++;
  if (fibers[from].flags & 2) s.epoch[THREADGROUP]++;
  s.side ^= 1;
}

void run_simdgroup(int simd) {  // until all its lanes are at a threadgroup barrier or have returned
  int from = simd * LANES;
  while (!failed) {
    int order[LANES], waiting = 0, same = 0;
    permute(order, LANES);
    for (int i = 0; i < LANES && !failed; i++) {
      Fiber& f = fibers[from + order[i]];
      if (f.state == Fiber::READY || f.state == Fiber::NEW) resume(f);
    }
    for (int i = 0; i < LANES; i++) {
      Fiber& f = fibers[from + i];
      waiting += f.state == Fiber::AT_SIMD;
      same += f.state == Fiber::AT_SIMD && f.line == fibers[from].line && f.what == fibers[from].what;
    }
    if (!waiting || failed) return;
    if (same == LANES) {
      release_simdgroup(simd, from);
      continue;
    }
    char text[2000];
    describe(text, sizeof text, from, from + LANES);
    fail("simd_divergence", 0, 0, "the lanes of simdgroup %d went apart: lanes %s", simd, text);
  }
}

bool release_barrier(int count) {  // false when all threads have returned
  int waiting = 0, done = 0;
  for (int i = 0; i < count; i++) {
    done += fibers[i].state == Fiber::DONE;
    waiting +=
        fibers[i].state == Fiber::AT_BARRIER && fibers[i].line == fibers[0].line && fibers[i].flags == fibers[0].flags;
  }
  if (done == count) return false;
  if (waiting < count) {
    char text[4000];
    describe(text, sizeof text, 0, count);
    fail("barrier_divergence", 0, 0, "not all threads are at the same threadgroup_barrier: threads %s", text);
    return false;
  }
  for (int i = 0; i < count; i++) fibers[i].state = Fiber::READY;
  if (fibers[0].flags & 1) {
    epochs[DEVICE]++;
    for (int i = 0; i < count; i++)
      if (fibers[i].holds) group_holds = fibers[i].holds;
  }
  if (fibers[0].flags & 2) epochs[THREADGROUP]++;
  launch->barriers++;
  return true;
}

void start_group(uint32_t number) {
  group_number = number;
  uint32_t g[3] = {number % launch->groups[0], number / launch->groups[0] % launch->groups[1],
                   number / launch->groups[0] / launch->groups[1]};
  for (int i = 0; i < launch->threads; i++) {
    uint32_t index = i;
    Fiber& f = fibers[i];
    f.state = Fiber::NEW;
    f.index = index, f.lane = index % LANES, f.simd = index / LANES;
    f.stack = stacks + (STACK + PAGE) * i + PAGE;
    f.fenced = 0, f.took = f.holds = 0;
    ThreadInfo& t = infos[i];
    for (int k = 0; k < 3; k++) {
      t.group[k] = g[k], t.groups[k] = launch->groups[k];
      t.group_size[k] = k ? 1 : launch->threads;
      t.position_in_group[k] = k ? 0 : index;
      t.position_in_grid[k] = k ? g[k] : g[0] * launch->threads + index;
    }
    t.index = index, t.lane = f.lane, t.simdgroup = f.simd, t.simdgroups = launch->threads / LANES;
  }
  group_holds = 0;
  first_epoch = ++epochs[THREADGROUP];
  epochs[DEVICE]++;
}

void run_group(uint32_t number) {
  start_group(number);
  do {
    int order[MAX_THREADS / LANES], count = launch->threads / LANES;
    permute(order, count);
    for (int i = 0; i < count && !failed; i++) run_simdgroup(order[i]);
  } while (!failed && release_barrier(launch->threads));
}

// ---- regions

template <typename T>
T* mapped(uint64_t count, void* at = nullptr) {
  int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (at ? MAP_FIXED : 0);
  return (T*)mmap(at, count * sizeof(T) + PAGE, PROT_READ | PROT_WRITE, flags, -1, 0);
}

Region& make_region(int slot, const char* name, uint64_t bytes, uint32_t element, Space space, bool writable) {
  Region& r = regions[slot];
  r = {name, ARENA + SLOT * slot + SLOT / 2, bytes, bytes + PAGE, element, space, true, writable, nullptr};
  mapped<uint8_t>(bytes, (void*)r.start);
  if (writable) r.cells = mapped<Cell>(bytes);
  return r;
}

void drop_region(Region& r) {
  if (!r.on) return;
  mmap((void*)r.start, r.mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  if (r.cells) munmap(r.cells, r.bytes * sizeof(Cell) + PAGE);
  r.on = false;
}

void count_unwritten(Buffer& b, const Region& r) {
  b.unwritten = b.first_unwritten = 0;
  for (uint64_t e = r.bytes / r.element; e-- > 0;) {
    bool whole = true;
    for (uint32_t i = 0; i < r.element; i++) whole &= r.cells[e * r.element + i].written;
    if (!whole) b.unwritten++, b.first_unwritten = e;
  }
}

bool reserve() {
  if (stacks) return true;
  int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  if (mmap((void*)ARENA, SLOT * SLOTS, PROT_NONE, flags | MAP_FIXED_NOREPLACE, -1, 0) != (void*)ARENA) return false;
  stacks = (uint8_t*)mmap(nullptr, (STACK + PAGE) * MAX_THREADS, PROT_READ | PROT_WRITE, flags, -1, 0);
  for (int i = 0; i < MAX_THREADS; i++) mprotect(stacks + (STACK + PAGE) * i, PAGE, PROT_NONE);
  return true;
}

int find_image(struct dl_phdr_info* info, size_t, void* inside) {  // the kernel's own constants may be read
  uint64_t low = ~0ull, high = 0, at = (uint64_t)inside;
  for (int i = 0; i < info->dlpi_phnum; i++) {
    if (info->dlpi_phdr[i].p_type != PT_LOAD) continue;
    uint64_t start = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr, end = start + info->dlpi_phdr[i].p_memsz;
    low = start < low ? start : low, high = end > high ? end : high;
  }
  if (at < low || at >= high) return 0;
  image_start = low, image_end = high;
  return 1;
}

struct Signals {  // ours while a kernel runs
  struct sigaction segv, bus, alarm;
  itimerval timer;  // a test's own time limit; it waits meanwhile
  stack_t stack;
  static uint8_t own_stack[65536];
  Signals(int limit_ms) {
    stack_t ours = {};
    ours.ss_sp = own_stack, ours.ss_size = sizeof own_stack;
    sigaltstack(&ours, &stack);
    runner = pthread_self();
    const itimerval none = {};
    setitimer(ITIMER_REAL, &none, &timer);
    struct sigaction fault = {}, time_out = {};
    fault.sa_sigaction = on_fault, fault.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    time_out.sa_handler = on_alarm, time_out.sa_flags = SA_ONSTACK | SA_NODEFER;
    sigaction(SIGSEGV, &fault, &segv), sigaction(SIGBUS, &fault, &bus), sigaction(SIGALRM, &time_out, &alarm);
    itimerval limit = {};
    limit.it_value.tv_sec = limit_ms / 1000, limit.it_value.tv_usec = limit_ms % 1000 * 1000;
    setitimer(ITIMER_REAL, &limit, nullptr);
  }
  ~Signals() {
    const itimerval none = {};
    setitimer(ITIMER_REAL, &none, nullptr);
    sigaction(SIGSEGV, &segv, 0), sigaction(SIGBUS, &bus, 0), sigaction(SIGALRM, &alarm, 0);
    sigaltstack(&stack, nullptr);
    setitimer(ITIMER_REAL, &timer, nullptr);
  }
};
uint8_t Signals::own_stack[65536];

}  // namespace

extern "C" {

// ---- what kernels call

const Post* msl_exchange(const void* value, uint32_t size, int32_t argument, const char* what, int uniform, int line) {
  Fiber& f = *current;
  Simdgroup& s = simdgroups[f.simd];
  Post* posts = s.posts[s.side];
  memcpy(posts[f.lane].value, value, size);
  posts[f.lane].argument = argument;
  f.what = what, f.line = line, f.uniform = uniform, f.flags = 0;
  pause(Fiber::AT_SIMD);
  return posts;
}

void msl_simd_barrier(uint32_t flags, int line) {
  Fiber& f = *current;
  f.what = "simdgroup_barrier", f.line = line, f.uniform = 0, f.flags = flags;
  pause(Fiber::AT_SIMD);
}

void msl_barrier(uint32_t flags, int line) {
  Fiber& f = *current;
  f.what = "threadgroup_barrier", f.line = line, f.flags = flags;
  pause(Fiber::AT_BARRIER);
}

uint32_t msl_lane() { return current->lane; }

void* msl_threadgroup_array(uint32_t id, uint64_t bytes, uint32_t element, const char* name, int line) {
  if (id >= ARRAYS) FAIL("limit", 0, line, "more than %d threadgroup arrays", ARRAYS);
  Region& r = regions[BUFFERS + id];
  if (!r.on) {
    make_region(BUFFERS + id, name, bytes, element, THREADGROUP, true);
    launch->threadgroup_bytes += bytes;
  }
  if (launch->threadgroup_bytes > launch->threadgroup_limit)
    FAIL("limit", 0, line, "%llu bytes of threadgroup memory; the GPU has %llu",
         (unsigned long long)launch->threadgroup_bytes, (unsigned long long)launch->threadgroup_limit);
  return (void*)r.start;
}

uint32_t msl_atomic(void* at, uint32_t value, int operation, int is_signed, int line) {
  Region* r = region_of((uint64_t)at, 4, operation != 0, 0, line);
  if (!r || !r->writable) FAIL("wild_access", 0, line, "atomic outside of outputs and threadgroup arrays");
  uint64_t offset = (uint64_t)at - r->start;
  if (operation != 5) touch(*r, offset, 4, false, true, 0, line);
  if (operation != 0) touch(*r, offset, 4, true, true, 0, line);
  if (r->space == DEVICE && operation != 0 && operation != 5) {
    if (current->fenced) releases[group_number] = {(uint64_t)at, thread_number(), current->fenced};
    current->took = (uint64_t)at;
  }
  uint32_t* cell = (uint32_t*)at;
  uint32_t old = *cell;
  bool less = is_signed ? (int32_t)value < (int32_t)old : value < old;
  if (operation == 1 || operation == 5 || (operation == 3 && less) || (operation == 4 && !less)) *cell = value;
  if (operation == 2) *cell = old + value;
  return old;
}

void msl_fence() {
  current->fenced = epochs[DEVICE];
  if (current->took) current->holds = current->took;
}

// ---- what the compiler inserts

#define CODE __builtin_return_address(0)
#define HOOKS(N)                                                                  \
  void __tsan_read##N(void* p) { access((uint64_t)p, N, false, CODE); }           \
  void __tsan_write##N(void* p) { access((uint64_t)p, N, true, CODE); }           \
  void __tsan_unaligned_read##N(void* p) { access((uint64_t)p, N, false, CODE); } \
  void __tsan_unaligned_write##N(void* p) { access((uint64_t)p, N, true, CODE); } \
  void __tsan_volatile_read##N(void* p) { access((uint64_t)p, N, false, CODE); }  \
  void __tsan_volatile_write##N(void* p) { access((uint64_t)p, N, true, CODE); }
HOOKS(1) HOOKS(2) HOOKS(4) HOOKS(8) HOOKS(16) void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_read_range(void* p, size_t n) { access((uint64_t)p, n, false, CODE); }
void __tsan_write_range(void* p, size_t n) { access((uint64_t)p, n, true, CODE); }
void* __tsan_memcpy(void* to, const void* from, size_t n) {
  access((uint64_t)from, n, false, CODE);
  access((uint64_t)to, n, true, CODE);
  return memcpy(to, from, n);
}
void* __tsan_memset(void* to, int byte, size_t n) {
  access((uint64_t)to, n, true, CODE);
  return memset(to, byte, n);
}

struct Place {
  const char* file;
  uint32_t line, column;
};
void __ubsan_handle_out_of_bounds(Place* at, uint64_t index) {
  FAIL("out_of_bounds", CODE, at->line, "index %lld is outside of its array", (long long)index);
}
void __ubsan_handle_shift_out_of_bounds(Place* at, uint64_t, uint64_t count) {
  FAIL("arithmetic", CODE, at->line, "shift by %lld", (long long)count);
}
void __ubsan_handle_divrem_overflow(Place* at, uint64_t, uint64_t) {
  FAIL("arithmetic", CODE, at->line, "integer division by zero");
}
void __ubsan_handle_float_cast_overflow(Place* at, uint64_t) {
  FAIL("arithmetic", CODE, at->line, "a float outside of the integer's range");
}
void __ubsan_handle_type_mismatch_v1(Place* at, uint64_t address) {
  Region* r = region_of(address, 1, false, CODE, at->line);
  FAIL("misaligned", CODE, at->line, "access to '%s' at byte %lld, which is not aligned for its type",
       r ? r->name : "private memory", r ? (long long)(address - r->start) : 0);
}

// ---- what the harness calls

int msl_run(Launch* todo) {
  if (!reserve()) return -1;
  launch = todo;
  failed = false, current = nullptr;
  random_state = todo->seed * 2654435769u | 1;  // small seeds, too, begin anywhere
  epochs[DEVICE] = epochs[THREADGROUP] = 1;
  memset(simdgroups, 0, sizeof simdgroups);
  dl_iterate_phdr(find_image, (void*)todo->entry);
  for (int i = 0; i < todo->buffer_count; i++) {
    Buffer& b = todo->buffers[i];
    arguments[i] = (void*)make_region(i, b.name, b.bytes, b.element, DEVICE, b.writable).start;
    memcpy(arguments[i], b.data, b.bytes);
    if (b.writable == IN_PLACE)
      for (uint64_t e = 0; e < b.bytes; e++) regions[i].cells[e].written = 1;
  }
  {
    Signals ours(todo->time_limit_ms);
    uint32_t count = todo->groups[0] * todo->groups[1] * todo->groups[2];
    releases = mapped<Release>(count);
    uint32_t together = todo->together, bundles = count / together;
    uint32_t shift = todo->order == 2 ? random_number() % bundles : 0;
    for (uint32_t i = 0; i < count && !failed; i++) {
      uint32_t bundle = todo->order == 1 ? bundles - 1 - i / together : (i / together + shift) % bundles;
      run_group(bundle * together + i % together);
    }
    munmap(releases, count * sizeof(Release) + PAGE);
  }
  current = nullptr;
  for (int i = 0; i < todo->buffer_count; i++) {
    Buffer& b = todo->buffers[i];
    if (!b.writable) continue;
    memcpy(b.data, arguments[i], b.bytes);
    count_unwritten(b, regions[i]);
  }
  for (Region& r : regions) drop_region(r);
  return failed;
}
}
