#include "emulation.h"

#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <map>
#include <mutex>
#include <new>
#include <numeric>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_UNPOISON_MEMORY_REGION(...)
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace {

using emulation::Engine;
using emulation::kLanes;
using emulation::Operation;
using emulation::Site;

constexpr int kMostThreads = 1024, kMostWarps = kMostThreads / kLanes, kMostBlocks = 2;
constexpr size_t kRedZone = 4096, kStack = 64 << 10;
constexpr size_t round_to_kib(size_t bytes) { return (bytes + 1023) & ~size_t{1023}; }

// From one stack to another. prepare() lets the first switch to a context run `enter` on `stack`.

#if defined(__x86_64__) && defined(__linux__)

using Context = void*;  // the stack pointer, above it the registers that a call preserves

extern "C" void emulation_switch(Context* from, Context to);
asm(R"(
.text
.hidden emulation_switch
.globl emulation_switch
emulation_switch:
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
)");

void switch_context(Context& from, Context& to) { emulation_switch(&from, to); }

void prepare(Context& context, char* stack, size_t size, void (*enter)()) {
  void** top = reinterpret_cast<void**>(stack + size);
  *--top = nullptr;  // where `enter` would return to
  *--top = reinterpret_cast<void*>(enter);
  context = top - 6;
}

#else

using Context = ucontext_t;

void switch_context(Context& from, Context& to) { swapcontext(&from, &to); }

void prepare(Context& context, char* stack, size_t size, void (*enter)()) {
  getcontext(&context);
  context.uc_stack.ss_sp = stack;
  context.uc_stack.ss_size = size;
  makecontext(&context, enter, 0);
}

#endif

// Where a thread waits: by itself until it is ready, for an operation of its warp, or at the
// block's barrier, or it has exited.
struct Meeting {
  const char* name;
  Site site;
  Operation operation = nullptr;
  bool (*ready)(void* what) = nullptr;
  void* what = nullptr;
};

constexpr Meeting kExit{"exit", {"", 0}};

bool equal(const char* x, const char* y) { return x == y || std::strcmp(x, y) == 0; }

bool operator==(const Meeting& x, const Meeting& y) {
  return x.site.line == y.site.line && equal(x.name, y.name) && equal(x.site.file, y.site.file);
}

struct Copy {
  void* to;
  const void* from;  // null for zeros
  int group;
};

// Its fiber outlives the launch: having exited, it waits for another block.
struct Thread {
  Context context;
  char* stack = nullptr;
  bool alive = false, waits;
  Meeting at;
  void* brought;
  std::vector<Copy> copies;
  int groups;
};

std::mutex launching;  // and whatever follows
int schedule = 0;
uint64_t random_bits = 0;
int64_t launched = 0;
const std::function<void()>* body_of_thread = nullptr;
Engine* engine = nullptr;
Thread pool[kMostThreads];  // block after block of a cluster
emulation::Cluster cluster_now{1, 0};
int current = 0;  // thread of the pool
unsigned first_block = 0;

// The threads of one warp take turns; the last hands back to the scheduler.
Context scheduler;
int turns[kLanes], turn = 0, last_turn = 0;
std::string failure;

// 16 bytes more, lest anyone rely on a larger alignment.
alignas(
    1024) char arena[kMostBlocks][round_to_kib(kRedZone + 16 + emulation::kMostShared + kRedZone)];
char* shared_begin = arena[0] + kRedZone + 16;
size_t shared_bytes = 0;
int64_t shared_limit = emulation::kMostShared;

Thread& running() { return pool[current]; }

void become(int thread) {
  const int block = cluster_now.blocks == 1 ? 0 : thread / cluster_now.threads;
  current = thread;
  threadIdx.x = static_cast<unsigned>(thread - block * cluster_now.threads);
  blockIdx.x = first_block + static_cast<unsigned>(block);
  shared_begin = arena[block] + kRedZone + 16;
}

void pass_on(Context& from) {
  if (turn == last_turn) return switch_context(from, scheduler);
  become(turns[turn++]);
  switch_context(from, running().context);
}

void wait_at(const Meeting& meeting) {
  running().at = meeting;
  running().waits = true;
  pass_on(running().context);
  running().waits = false;
}

bool can_run(const Thread& thread) {
  return !thread.waits || (thread.at.ready && thread.at.ready(thread.at.what));
}

void live() {
  for (;;) {
    (*body_of_thread)();
    wait_at(kExit);
  }
}

// Failures.

template <typename... Parts>
std::string text(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

std::string here_text(const char* name, Site site) {
  return text(name, " (", site.file, ":", site.line, ")");
}

std::string block_text() {
  return text("block (", blockIdx.x, ", ", blockIdx.y, ", ", blockIdx.z, ")");
}

// Fibers stay where they are; the next launch starts them afresh.
[[noreturn]] void abandon(const std::string& message) {
  for (Thread& thread : pool) thread.alive = false;
  throw std::runtime_error(message);
}

using emulation::fail;

// Who waits where: threads, lanes of one warp or warps of the block.
std::string waiting_text(const Meeting* const* at, int size, const char* noun) {
  std::map<std::string, std::string> waiting;
  for (int x = 0; x < size;) {
    const int first = x;
    while (x < size && *at[x] == *at[first]) ++x;
    const Meeting& it = *at[first];
    std::string& who =
        waiting[it == kExit ? "have exited" : "wait at " + here_text(it.name, it.site)];
    who += text(who.empty() ? "" : ", ", first);
    if (x - first > 1) who += text("-", x - 1);
  }
  std::string message;
  const char* separator = ": ";
  for (const auto& [where, who] : waiting) {
    message += text(separator, noun, " ", who, " ", where);
    separator = "; ";
  }
  return message;
}

// Where all of them wait, lanes of one warp or (warp < 0) warps of the block.
const Meeting& common(const Meeting* const* at, int size, const char* noun, int warp) {
  const auto same = [&](const Meeting* x) { return *x == *at[0]; };
  if (std::all_of(at, at + size, same)) return *at[0];
  abandon(block_text() + (warp < 0 ? "" : text(", warp ", warp)) + waiting_text(at, size, noun));
}

// Shared memory.

// NaNs of every type, in bits that a kernel hardly writes.
struct RedZone {
  uint16_t words[kRedZone / 2];
  RedZone() { std::fill(std::begin(words), std::end(words), uint16_t{0xfffd}); }
};
const RedZone red_zone;

void draw_red_zones() {
  std::memcpy(shared_begin - kRedZone, &red_zone, kRedZone);
  std::memcpy(shared_begin + shared_bytes, &red_zone, kRedZone);
}

void check_red_zones() {
  for (const char* zone : {shared_begin - kRedZone, shared_begin + shared_bytes}) {
    if (std::memcmp(zone, &red_zone, kRedZone) == 0) continue;
    const char* expected = reinterpret_cast<const char*>(&red_zone);
    const auto at = std::mismatch(zone, zone + kRedZone, expected).first - shared_begin;
    abandon(text(block_text(), ": byte ", at, " of ", shared_bytes,
                 " bytes of shared memory was written"));
  }
}

void check_aligned(const void* address, const char* name, Site site) {
  if (reinterpret_cast<uintptr_t>(address) % 16)
    fail(name, site, text(address, " is not aligned to 16 bytes"));
}

void check_shared(const void* address, const char* name, Site site) {
  check_aligned(address, name, site);
  const int64_t at = static_cast<const char*>(address) - shared_begin;
  if (at < 0 || at + 16 > static_cast<int64_t>(shared_bytes))
    fail(name, site, text("16 bytes at ", at, " of ", shared_bytes, " bytes of shared memory"));
}

// The schedule.

template <typename Number>
void arrange(Number* order, Number size) {
  std::iota(order, order + size, Number{0});
  if (schedule == 1) std::reverse(order, order + size);
  if (schedule < 2) return;
  for (Number left = size; left > 1; --left)
    std::swap(order[left - 1], order[emulation::random_below(static_cast<uint32_t>(left))]);
}

// Tops of stacks lie at different places of a page, lest they all compete for one place in the
// cache. Below each stack is a page that faults.
void revive(int index) {
  Thread& thread = pool[index];
  if (thread.alive) return;
  if (!thread.stack) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    void* memory =
        mmap(nullptr, page + kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    mprotect(memory, page, PROT_NONE);
    thread.stack = static_cast<char*>(memory) + page;
  }
  ASAN_UNPOISON_MEMORY_REGION(thread.stack, kStack);  // which may hold frames that were abandoned
  prepare(thread.context, thread.stack, kStack - index * 192 % 4096, live);
  thread.alive = true;
}

// A warp of the cluster.
struct Warp {
  int first, lanes, of_block;

  explicit Warp(int index) {
    const int warps = (cluster_now.threads + kLanes - 1) / kLanes;
    of_block = index % warps;
    first = index / warps * cluster_now.threads + of_block * kLanes;
    lanes = std::min(kLanes, cluster_now.threads - of_block * kLanes);
  }

  bool can_run() const { return std::any_of(pool + first, pool + first + lanes, ::can_run); }
};

// Runs every lane of a warp that can to where it waits. What all of them wait for happens and null
// is returned, unless it is up to the block.
const Meeting* run_warp(const Warp& warp) {
  const int first = warp.first, lanes = warp.lanes;
  int able[kLanes], count = 0;
  for (int thread = first; thread < first + lanes; ++thread)
    if (can_run(pool[thread])) able[count++] = thread;
  arrange(turns, count);
  for (int x = 0; x < count; ++x) turns[x] = able[turns[x]];
  turn = 0;
  last_turn = count;
  pass_on(scheduler);
  if (!failure.empty()) abandon(std::exchange(failure, {}));

  const Meeting* at[kLanes];
  void* brought[kLanes];
  for (int lane = 0; lane < lanes; ++lane) {
    at[lane] = &pool[first + lane].at;
    brought[lane] = pool[first + lane].brought;
  }
  if (std::any_of(at, at + lanes, [](const Meeting* x) { return x->ready; })) return nullptr;
  const Meeting& met = common(at, lanes, "lanes", warp.of_block);
  if (!met.operation) return &met;
  if (lanes < kLanes)
    abandon(text(block_text(), ", warp ", warp.of_block, ": ", here_text(met.name, met.site),
                 " has only ", lanes, " lanes"));
  met.operation(brought);
  for (int lane = 0; lane < lanes; ++lane) pool[first + lane].waits = false;
  return nullptr;
}

[[noreturn]] void stuck() {
  std::string message;
  for (int block = 0; block < cluster_now.blocks; ++block) {
    const Meeting* at[kMostThreads];
    for (int x = 0; x < cluster_now.threads; ++x) at[x] = &pool[block * cluster_now.threads + x].at;
    become(block * cluster_now.threads);
    message += text(block ? "; " : "", block_text(), ", where none can go on",
                    waiting_text(at, cluster_now.threads, "threads"));
  }
  abandon(message);
}

void run_cluster() {
  const int blocks = cluster_now.blocks, threads = cluster_now.threads;
  for (int x = 0; x < blocks * threads; ++x) {
    pool[x].waits = false;
    pool[x].copies.clear();
    pool[x].groups = 0;
  }
  for (int block = 0; block < blocks; ++block) {
    become(block * threads);
    std::memset(shared_begin, 0xff, shared_bytes);
  }
  if (engine) engine->begin();
  const int warps_of_block = (threads + kLanes - 1) / kLanes, warps = blocks * warps_of_block;
  const Meeting* at[kMostWarps] = {};  // null where a warp has not come to its block's barrier
  int gone = 0;                        // blocks that have exited
  for (;;) {
    while (engine && engine->step(schedule, false)) continue;
    int order[kMostWarps];
    arrange(order, warps);
    const int* warp =
        std::find_if(order, order + warps, [&](int x) { return !at[x] && Warp(x).can_run(); });
    if (warp == order + warps) {
      if (gone == blocks) break;
      if (!(engine && engine->step(schedule, true))) stuck();
      continue;
    }
    at[*warp] = run_warp(Warp(*warp));
    const Meeting** const of_block = at + *warp / warps_of_block * warps_of_block;
    if (std::count(of_block, of_block + warps_of_block, nullptr)) continue;
    if (common(of_block, warps_of_block, "warps", -1) == kExit) {
      ++gone;
      continue;
    }
    std::fill(of_block, of_block + warps_of_block, nullptr);
    const auto first = pool + *warp / warps_of_block * threads;
    std::for_each(first, first + threads, [](Thread& thread) { thread.waits = false; });
  }
  const std::string left = engine ? engine->end() : "";
  if (!left.empty()) abandon(text(block_text(), ": ", left));
  for (int block = 0; block < blocks; ++block) {
    become(block * threads);
    check_red_zones();
  }
}

// Matrices.

struct Factors {
  float* c;
  const uint32_t* a;
  uint32_t b[2];
};

float from_bfloat16(uint16_t bits) { return __uint_as_float(uint32_t{bits} << 16); }

template <float (*value)(uint16_t)>
void multiply(void* const* brought) {
  float a[16][16], b[16][8], c[16][8];  // here b is transposed
  const auto low = [](uint32_t x) { return value(static_cast<uint16_t>(x)); };
  const auto high = [](uint32_t x) { return value(static_cast<uint16_t>(x >> 16)); };
  for (int lane = 0; lane < kLanes; ++lane) {
    const auto& mine = *static_cast<const Factors*>(brought[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int x = 0; x < 4; ++x) {
      const int row = g + x % 2 * 8, column = 2 * t + x / 2 * 8;
      a[row][column] = low(mine.a[x]);
      a[row][column + 1] = high(mine.a[x]);
      c[g + x / 2 * 8][2 * t + x % 2] = mine.c[x];
    }
    for (int x = 0; x < 2; ++x) {
      b[2 * t + x * 8][g] = low(mine.b[x]);
      b[2 * t + x * 8 + 1][g] = high(mine.b[x]);
    }
  }
  for (int m = 0; m < 16; ++m)
    for (int k = 0; k < 16; ++k)
      for (int n = 0; n < 8; ++n) c[m][n] += a[m][k] * b[k][n];
  for (int lane = 0; lane < kLanes; ++lane)
    for (int x = 0; x < 4; ++x)
      static_cast<Factors*>(brought[lane])->c[x] = c[lane / 4 + x / 2 * 8][lane % 4 * 2 + x % 2];
}

}  // namespace

void __syncthreads(Site site) { wait_at({"__syncthreads", site, nullptr}); }

void __syncwarp(unsigned mask, Site site) {
  meet("__syncwarp", mask, nullptr, site, [](void* const*) {});
}

namespace emulation {

void set_schedule(int number) { schedule = number; }

void set_shared_memory(int64_t bytes) {
  shared_limit = std::clamp(bytes, kLeastShared, kMostShared);
}
int64_t launches() { return launched; }

Cluster cluster() { return cluster_now; }
int running() { return current; }

int exited(int block) {
  const Thread* const first = pool + block * cluster_now.threads;
  return static_cast<int>(
      std::count_if(first, first + cluster_now.threads,
                    [](const Thread& thread) { return thread.waits && thread.at == kExit; }));
}

Shared shared_of(int block) { return {arena[block] + kRedZone + 16, shared_bytes}; }

void meet(const char* name, unsigned mask, void* brought, Site site, Operation operation) {
  if (mask != ~0u) fail(name, site, "lanes are left out of the mask, which is not emulated");
  ::running().brought = brought;
  wait_at({name, site, operation});
}

void wait_until(const char* name, Site site, bool (*ready)(void* what), void* what) {
  if (!ready(what)) wait_at({name, site, nullptr, ready, what});
}

// The thread never returns: the scheduler throws, above whom someone can catch.
void fail(const char* name, Site site, const std::string& what) {
  failure = text(block_text(), ", thread ", threadIdx.x, ": ", here_text(name, site), ": ", what);
  turn = last_turn;
  pass_on(::running().context);
}

void give_up(const char* name, Site site, const std::string& what) {
  abandon(text(block_text(), ", thread ", threadIdx.x, ": ", here_text(name, site), ": ", what));
}

uint32_t random_below(uint32_t bound) {
  random_bits = random_bits * 6364136223846793005u + 1442695040888963407u;
  return static_cast<uint32_t>((random_bits >> 32) * bound >> 32);
}

void attach(Engine* other) { engine = other; }

uint64_t shuffle_bits(const char* name, unsigned mask, uint64_t bits, int from, Site site) {
  struct Lane {
    uint64_t bits;
    int from;
    uint64_t result;
  } mine{bits, from, 0};
  meet(name, mask, &mine, site, [](void* const* brought) {
    for (int lane = 0; lane < kLanes; ++lane) {
      auto* mine = static_cast<Lane*>(brought[lane]);
      mine->result = static_cast<const Lane*>(brought[mine->from])->bits;
    }
  });
  return mine.result;
}

unsigned vote(const char* name, unsigned mask, bool yes, Site site) {
  unsigned votes = yes;
  meet(name, mask, &votes, site, [](void* const* brought) {
    unsigned all = 0;
    for (int lane = 0; lane < kLanes; ++lane)
      all |= *static_cast<const unsigned*>(brought[lane]) << lane;
    for (int lane = 0; lane < kLanes; ++lane) *static_cast<unsigned*>(brought[lane]) = all;
  });
  return votes;
}

void wait_for_copies(int pending) {
  Thread& thread = ::running();
  auto copy = thread.copies.begin();
  for (; copy != thread.copies.end() && copy->group < thread.groups - pending; ++copy)
    if (copy->from)
      std::memcpy(copy->to, copy->from, 16);
    else
      std::memset(copy->to, 0, 16);
  thread.copies.erase(thread.copies.begin(), copy);
}

cudaError_t run(const std::function<void()>& body, dim3 grid, int threads, size_t shared,
                int cluster) {
  const std::lock_guard<std::mutex> lock(launching);
  const auto within = [](unsigned size, unsigned most) { return size > 0 && size <= most; };
  if (!within(grid.x, 0x7fffffffu) || !within(grid.y, 0xffffu) || !within(grid.z, 0xffffu) ||
      threads < 1 || static_cast<int64_t>(shared) > shared_limit || cluster < 1 ||
      cluster > kMostBlocks || threads * cluster > kMostThreads ||
      grid.x % static_cast<unsigned>(cluster))
    return cudaErrorInvalidValue;
  ++launched;
  random_bits = static_cast<uint64_t>(schedule);
  body_of_thread = &body;
  gridDim = grid;
  blockDim = dim3(static_cast<unsigned>(threads));
  shared_bytes = shared;
  cluster_now = {cluster, threads};
  for (int block = 0; block < cluster; ++block) {
    become(block * threads);
    draw_red_zones();
  }
  for (int x = 0; x < cluster * threads; ++x) revive(x);
  const int64_t across = grid.x / static_cast<unsigned>(cluster);
  std::vector<int64_t> clusters(static_cast<size_t>(across) * grid.y * grid.z);
  arrange(clusters.data(), static_cast<int64_t>(clusters.size()));
  for (const int64_t x : clusters) {
    first_block = static_cast<unsigned>(x % across * cluster);
    blockIdx.y = static_cast<unsigned>(x / across % grid.y);
    blockIdx.z = static_cast<unsigned>(x / across / grid.y);
    run_cluster();
  }
  return cudaSuccess;
}

}  // namespace emulation

namespace emergence_ext::cuda {

char* shared_memory() { return shared_begin; }

void copy_async(void* shared, const void* global, bool there, Site site) {
  check_shared(shared, "copy_async", site);
  check_aligned(global, "copy_async", site);
  std::memset(shared, 0xff, 16);
  Thread& thread = running();
  thread.copies.push_back({shared, there ? global : nullptr, thread.groups});
}

void copy_async_commit() { ++running().groups; }

void load_matrices(uint32_t (&x)[4], const void* row, Site site) {
  check_shared(row, "load_matrices", site);
  struct Lane {
    const char* row;
    uint32_t* x;
  } mine{static_cast<const char*>(row), x};
  meet("load_matrices", kFullWarp, &mine, site, [](void* const* brought) {
    for (int lane = 0; lane < kLanes; ++lane)
      for (int matrix = 0; matrix < 4; ++matrix) {
        const auto* from = static_cast<const Lane*>(brought[8 * matrix + lane / 4]);
        std::memcpy(static_cast<Lane*>(brought[lane])->x + matrix, from->row + lane % 4 * 4, 4);
      }
  });
}

void multiply_bfloat16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Site site) {
  Factors mine{c, a, {b0, b1}};
  meet("multiply_bfloat16", kFullWarp, &mine, site, multiply<from_bfloat16>);
}

void multiply_float16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Site site) {
  Factors mine{c, a, {b0, b1}};
  meet("multiply_float16", kFullWarp, &mine, site, multiply<from_float16>);
}

}  // namespace emergence_ext::cuda

extern "C" {

__attribute__((visibility("default"))) void emulation_set_schedule(int number) {
  emulation::set_schedule(number);
}

__attribute__((visibility("default"))) int64_t emulation_launches() {
  return emulation::launches();
}

}  // extern "C"
