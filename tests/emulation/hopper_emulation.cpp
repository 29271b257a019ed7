#include "hopper_emulation.h"

#include <array>
#include <deque>
#include <limits>
#include <sstream>
#include <vector>

namespace emulation {
namespace {

constexpr int kGroup = 128, kWarpsOfGroup = kGroup / kLanes, kGroupRows = 64, kDepth = 16;
constexpr int kMostColumns = 256, kMostGroups = 8, kMostBlocks = 2;
constexpr uint32_t kSwizzleBytes = 128, kPatternBytes = 1024, kPieceBytes = 16;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

template <typename... Parts>
std::string text(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

int own_block() { return running() / cluster().threads; }

// `bytes` of shared memory, of the block that runs or another of its cluster.
char* at(uint32_t address, size_t bytes, uint32_t alignment, int block, const char* name,
         Site site) {
  const Shared shared = shared_of(block);
  const int64_t offset = int64_t{address} - kSharedBase;
  if (address % alignment)
    fail(name, site, text("address ", address, " is not aligned to ", alignment, " bytes"));
  if (offset < 0 || offset + bytes > shared.bytes)
    fail(name, site,
         text(bytes, " bytes at ", offset, " of ", shared.bytes, " bytes of shared memory"));
  return shared.begin + offset;
}

// Of a pattern of eight rows of 128 bytes, that begins where the address is a multiple of 1024.
uint32_t swizzled(uint32_t address) { return address ^ (address >> 7 & 7) << 4; }

// Barriers.

// In the 8 bytes, none of which may be written by others. All ones, as shared memory begins, is no
// barrier.
struct Barrier {
  static constexpr int kBias = 1 << 20, kMost = (1 << 20) - 1;
  uint64_t pending : 20, arrivals : 20, biased_bytes : 21, parity : 1, seen : 1, invalid : 1;

  // False where that is more than can be counted.
  bool expect(int64_t bytes) {
    const int64_t sum = static_cast<int64_t>(biased_bytes) - kBias + bytes;
    biased_bytes = static_cast<uint64_t>(sum + kBias) & 0x1fffff;
    return sum <= kMost && sum >= -kMost;
  }

  void advance() {
    if (pending > 0 || biased_bytes != kBias) return;
    pending = arrivals;
    parity ^= 1;
    seen = 0;
  }
};
static_assert(sizeof(Barrier) == 8);

Barrier read(const char* place) {
  Barrier barrier;
  std::memcpy(&barrier, place, sizeof(barrier));
  return barrier;
}

void write(char* place, const Barrier& barrier) { std::memcpy(place, &barrier, sizeof(barrier)); }

char* barrier_at(uint32_t address, int block, const char* name, Site site) {
  char* const place = at(address, sizeof(Barrier), 8, block, name, site);
  if (read(place).invalid) fail(name, site, text("there is no barrier at ", address));
  return place;
}

void arrive(char* place, uint32_t bytes, const char* name, Site site) {
  Barrier barrier = read(place);
  if (!barrier.expect(bytes)) fail(name, site, "these are more bytes than a barrier counts");
  if (barrier.pending == 0) fail(name, site, "there are more arrivals than the barrier has");
  if (!barrier.seen) fail(name, site, "nobody has waited for the phase before");
  --barrier.pending;
  barrier.advance();
  write(place, barrier);
}

// Copies.

struct Box {
  TensorMap map;
  int64_t from[TensorMap::kMostRank];
  uint32_t to, barrier;
  int block;
  Site site;

  uint32_t bytes() const {
    uint32_t product = 2;
    for (int x = 0; x < map.rank; ++x) product *= map.box[x];
    return product;
  }
};

// Products.

struct Product {
  uint64_t a, b;
  int columns;
  bool float16, add;
  Site site;
  unsigned warps = 0;  // that have issued it

  bool same(const Product& other) const {
    return a == other.a && b == other.b && columns == other.columns && float16 == other.float16 &&
           add == other.add && site.line == other.site.line;
  }
};

// The sums are kept here from the first product to the end; in the threads' registers they are NaN.
struct Group {
  std::deque<Product> products;  // that some warp has yet to issue, or that have not been made
  int64_t made = 0;              // before those
  std::array<int64_t, kWarpsOfGroup> issued{}, ended{};
  std::array<int64_t, kWarpsOfGroup> committed{}, earlier{};  // of issued; before the last batch
  std::array<bool, kWarpsOfGroup> begun{};
  std::array<std::array<float*, kLanes>, kWarpsOfGroup> registers{};
  float sum[kGroupRows][kMostColumns];
  int columns = 0;

  void begin() {
    products.clear();
    made = 0;
    issued = ended = committed = earlier = {};
    begun = {};
  }
};

struct Registers {
  std::array<int, kWarpsOfGroup * kMostGroups> each{};
  int free = 0;
};

class Hopper final : public Engine {
 public:
  Hopper() { attach(this); }

  void begin() override {
    boxes_.clear();
    unfenced_.clear();
    for (auto& block : groups_)
      for (Group& group : block) group.begin();
    products_ = arrived_ = generation_ = 0;
    const int threads = cluster().threads, all = 64 << 10;
    const int most = std::min(255, all / threads) / 8 * 8;
    for (Registers& registers : registers_) {
      registers.each.fill(most);
      registers.free = 0;
    }
  }

  // One of the copies, which come in any order, or of the products, in the order of each group.
  // Schedule 0: nothing before it is needed, copies last. 1: copies at once, products last. Others:
  // anything at any time.
  bool step(int schedule, bool needed) override {
    if (boxes_.empty() && products_ == 0) return false;
    const bool shuffled = schedule > 1;
    if (!needed && (schedule == 0 || (shuffled && random_below(2) == 0))) return false;
    std::vector<Group*> ready;
    for (int block = 0; block < cluster().blocks; ++block)
      for (Group& group : groups_[block])
        if (!group.products.empty() && group.products[0].warps == (1u << kWarpsOfGroup) - 1)
          ready.push_back(&group);
    if (schedule == 0 && !ready.empty()) return make(*ready[0]);
    if (schedule == 1 && boxes_.empty() && !needed) return false;
    const size_t copies = boxes_.size();
    const size_t choices = schedule == 1 && copies > 0 ? copies : copies + ready.size();
    if (choices == 0) return false;
    const size_t choice = random_below(static_cast<uint32_t>(choices));
    if (choice >= copies) return make(*ready[choice - copies]);
    land(boxes_[choice]);
    boxes_.erase(boxes_.begin() + static_cast<std::ptrdiff_t>(choice));
    return true;
  }

  std::string end() override {
    if (!boxes_.empty()) return text(boxes_.size(), " copies are still under way");
    for (const auto& block : groups_)
      for (const Group& group : block)
        for (int warp = 0; warp < kWarpsOfGroup; ++warp)
          if (group.issued[warp] != group.ended[warp]) return "products were not waited for";
    for (int block = 0; block < cluster().blocks; ++block)
      for (size_t x = 0; x < registers_[block].each.size(); ++x)
        if (registers_[block].each[x] != registers_[block].each[x / kWarpsOfGroup * kWarpsOfGroup])
          return "warps of a group have set different numbers of registers";
    return "";
  }

  // Of the warp that runs.
  Group& group() { return groups_[own_block()][threadIdx.x / kGroup]; }
  static int warp() { return static_cast<int>(threadIdx.x % kGroup / kLanes); }

  void issue(void* const* brought);
  void load(Box box, uint32_t blocks, const char* name);
  void set_registers(bool more, int registers, Site site);
  void meet_cluster(Site site);

  void made_barrier(const char* place) { unfenced_.emplace_back(running(), place); }

  void fenced() {
    const auto mine = [](const auto& x) { return x.first == running(); };
    unfenced_.erase(std::remove_if(unfenced_.begin(), unfenced_.end(), mine), unfenced_.end());
  }

 private:
  void land(const Box& box);
  bool make(Group& group);

  std::vector<std::pair<int, const char*>> unfenced_;  // barriers, and the threads that made them
  std::vector<Box> boxes_;
  int64_t products_ = 0;  // that are under way
  std::array<std::array<Group, kMostGroups>, kMostBlocks> groups_;
  std::array<Registers, kMostBlocks> registers_;
  int64_t arrived_ = 0, generation_ = 0;
};

Hopper hopper;

// Rows of 128 bytes, in the order of the box; zeros outside of the tensor.
void Hopper::land(const Box& box) {
  const TensorMap& map = box.map;
  const Shared shared = shared_of(box.block);
  const uint32_t rows = box.bytes() / kSwizzleBytes;
  for (uint32_t row = 0; row < rows; ++row) {
    const char* from = map.entries;
    bool inside = true;
    uint32_t rest = row;
    for (int x = 1; x < map.rank; ++x) {
      const int64_t coordinate = box.from[x] + rest % map.box[x];
      rest /= map.box[x];
      inside &= coordinate >= 0 && coordinate < static_cast<int64_t>(map.sizes[x]);
      from += coordinate * static_cast<int64_t>(map.strides[x]);
    }
    for (uint32_t entry = 0; entry < map.box[0]; ++entry) {
      const int64_t coordinate = box.from[0] + entry;
      const bool there =
          inside && coordinate >= 0 && coordinate < static_cast<int64_t>(map.sizes[0]);
      const uint32_t to = swizzled(box.to + row * kSwizzleBytes + 2 * entry) - kSharedBase;
      if (there)
        std::memcpy(shared.begin + to, from + 2 * coordinate, 2);
      else
        std::memset(shared.begin + to, 0, 2);
    }
  }
  char* const place = shared.begin + (box.barrier - kSharedBase);
  Barrier barrier = read(place);
  if (barrier.invalid || !barrier.expect(-int64_t{box.bytes()}))
    give_up("load_box", box.site, "its barrier is gone");
  barrier.advance();
  write(place, barrier);
}

void Hopper::load(Box box, uint32_t blocks, const char* name) {
  const int own = own_block();
  for (uint32_t block = 0; block < (blocks > 1 ? blocks : 1); ++block) {
    box.block = blocks > 1 ? static_cast<int>(block) : own;
    char* const to = at(box.to, box.bytes(), kPatternBytes, box.block, name, box.site);
    const char* const barrier = barrier_at(box.barrier, box.block, name, box.site);
    for (const auto& [where, made] : unfenced_)
      if (made == barrier) fail(name, box.site, "there was no fence after its barrier was made");
    for (const Box& other : boxes_)
      if (other.block == box.block && other.to < box.to + box.bytes() &&
          box.to < other.to + other.bytes())
        fail(name, box.site, "another copy to this place is under way");
    std::memset(to, 0xff, box.bytes());
    boxes_.push_back(box);
  }
}

struct Issue {
  Product product;
  float* sum;
};

void Hopper::issue(void* const* brought) {
  const Product& product = static_cast<Issue*>(brought[0])->product;
  Group& g = group();
  const int w = warp();
  const auto refuse = [&](const char* why) { give_up("multiply", product.site, why); };
  for (int lane = 1; lane < kLanes; ++lane)
    if (!product.same(static_cast<Issue*>(brought[lane])->product))
      refuse("lanes bring different arguments");
  if (!g.begun[w]) refuse("begin_products() is missing");
  const bool first = g.issued[w] == g.ended[w];
  for (int lane = 0; lane < kLanes; ++lane) {
    float* const mine = static_cast<Issue*>(brought[lane])->sum;
    if (!first && g.registers[w][lane] != mine) refuse("other sums are under way");
    g.registers[w][lane] = mine;
    for (int x = 0; first && x < product.columns / 2; ++x) {
      const int row = w * 16 + lane / 4 + x / 2 % 2 * 8;
      g.sum[row][x / 4 * 8 + lane % 4 * 2 + x % 2] = std::exchange(mine[x], kNan);
    }
  }
  const int64_t at = g.issued[w]++ - g.made;
  if (at == static_cast<int64_t>(g.products.size())) {
    g.products.push_back(product);
    ++products_;
  }
  if (!g.products[at].same(product)) refuse("warps of the group bring different arguments");
  if (!first && g.columns != product.columns) refuse("products of several shapes are under way");
  g.columns = product.columns;
  g.products[at].warps |= 1u << w;
}

// Entries of a factor's row: rows lie in patterns of eight, which are a stride apart.
void read_row(uint64_t bits, int row, const Product& product, Shared shared, float* entries) {
  const auto field = [&](int first) { return static_cast<uint32_t>(bits >> first & 0x3fffu) << 4; };
  const uint32_t start = field(0), stride = field(32), number = static_cast<uint32_t>(row);
  for (uint32_t piece = 0; piece < 2; ++piece) {
    const uint32_t address =
        start + number / 8 * stride + number % 8 * kSwizzleBytes + piece * kPieceBytes;
    const int64_t offset = int64_t{swizzled(address)} - kSharedBase;
    if (offset < 0 || offset + kPieceBytes > static_cast<int64_t>(shared.bytes))
      give_up("multiply", product.site, "a factor is outside of shared memory");
    uint16_t piece_bits[kPieceBytes / 2];
    std::memcpy(piece_bits, shared.begin + offset, kPieceBytes);
    for (const uint16_t x : piece_bits)
      *entries++ = product.float16 ? emergence_ext::cuda::from_float16(x)
                                   : __uint_as_float(static_cast<uint32_t>(x) << 16);
  }
}

bool Hopper::make(Group& group) {
  const Product product = group.products.front();
  group.products.pop_front();
  ++group.made;
  --products_;
  const auto index = static_cast<size_t>(&group - &groups_[0][0]);
  const Shared shared = shared_of(static_cast<int>(index / kMostGroups));
  for (const uint64_t bits : {product.a, product.b}) {
    if (bits >> 62 != 1) give_up("multiply", product.site, "only 128-byte swizzling is emulated");
    if (bits >> 49 & 7 || bits >> 3 & 7)
      give_up("multiply", product.site, "only factors that begin with a pattern are emulated");
  }
  static float a[kDepth], row_of_b[kDepth], b[kDepth][kMostColumns];  // here b is transposed
  for (int column = 0; column < product.columns; ++column) {
    read_row(product.b, column, product, shared, row_of_b);
    for (int k = 0; k < kDepth; ++k) b[k][column] = row_of_b[k];
  }
  for (int row = 0; row < kGroupRows; ++row) {
    read_row(product.a, row, product, shared, a);
    float* const sum = group.sum[row];
    if (!product.add) std::fill(sum, sum + product.columns, 0.0f);
    for (int k = 0; k < kDepth; ++k)
      for (int column = 0; column < kMostColumns; ++column) sum[column] += a[k] * b[k][column];
  }
  return true;
}

void Hopper::set_registers(bool more, int registers, Site site) {
  struct Request {
    Registers& all;
    int& mine;
    int wanted;
  } request{registers_[own_block()], registers_[own_block()].each[threadIdx.x / kLanes], registers};
  const char* const name = more ? "take_registers" : "keep_registers";
  if (registers % 8 || registers < 24 || registers > 256)
    fail(name, site, "registers come in eights, from 24 to 256");
  if (more ? request.mine > registers : request.mine < registers)
    fail(name, site, text("a thread has ", request.mine, " registers"));
  meet(name, ~0u, nullptr, site, [](void* const*) {});
  wait_until(
      name, site,
      [](void* what) {
        const auto& request = *static_cast<Request*>(what);
        return request.wanted - request.mine <= request.all.free;
      },
      &request);
  meet(name, ~0u, &request, site, [](void* const* brought) {
    auto& request = *static_cast<Request*>(brought[0]);
    request.all.free -= request.wanted - request.mine;
    request.mine = request.wanted;
  });
}

// Of all threads: that some have exited is not emulated.
void Hopper::meet_cluster(Site site) {
  struct Wait {
    int64_t &arrived, &generation, mine;
  } wait{arrived_, generation_, generation_};
  ++arrived_;
  wait_until(
      "cluster_sync", site,
      [](void* what) {
        const auto& wait = *static_cast<Wait*>(what);
        if (wait.arrived == cluster().blocks * cluster().threads) {
          wait.arrived = 0;
          ++wait.generation;
        }
        return wait.generation > wait.mine;
      },
      &wait);
}

}  // namespace

uint32_t shared_address(const void* shared) {
  return static_cast<uint32_t>(static_cast<const char*>(shared) - shared_of(own_block()).begin) +
         kSharedBase;
}

// As the driver documents its cuTensorMapEncodeTiled().
bool encode(TensorMap& map, int rank, const void* entries, const uint64_t* sizes,
            const uint64_t* strides, const uint32_t* box) {
  map.entries = static_cast<const char*>(entries);
  map.rank = rank;
  bool right = reinterpret_cast<uintptr_t>(entries) % 16 == 0 && box[0] * 2 == kSwizzleBytes;
  for (int x = 0; x < rank; ++x) {
    map.sizes[x] = sizes[x];
    map.strides[x] = x > 0 ? strides[x - 1] : 2;
    map.box[x] = box[x];
    right &= sizes[x] > 0 && sizes[x] <= uint64_t{1} << 32 && box[x] > 0 && box[x] <= 256;
    right &= x == 0 || (map.strides[x] % 16 == 0 && map.strides[x] < uint64_t{1} << 40);
  }
  return right;
}

void set_registers(bool more, int registers, Site site) {
  hopper.set_registers(more, registers, site);
}

void multiply(float* sum, int columns, bool float16, uint64_t a, uint64_t b, bool add, Site site) {
  Issue mine{{a, b, columns, float16, add, site}, sum};
  meet("multiply", ~0u, &mine, site, [](void* const* brought) { hopper.issue(brought); });
}

void wait_until_made(const char* name, int64_t products, Site site) {
  struct Wait {
    const int64_t &made, wanted;
  } wait{hopper.group().made, products};
  wait_until(
      name, site,
      [](void* what) {
        const auto& wait = *static_cast<Wait*>(what);
        return wait.made >= wait.wanted;
      },
      &wait);
}

void end_products(float* sum, int sums, Site site) {
  const char* const name = "end_products";
  meet(name, ~0u, nullptr, site, [](void* const*) {});
  Group& group = hopper.group();
  const int warp = Hopper::warp();
  if (group.committed[warp] < group.issued[warp]) fail(name, site, "commit_products() is missing");
  wait_until_made(name, group.issued[warp], site);
  if (group.ended[warp] < group.issued[warp])
    for (int x = 0; x < sums; ++x) {
      const int row = warp * 16 + lane() / 4 + x / 2 % 2 * 8;
      sum[x] = group.sum[row][x / 4 * 8 + lane() % 4 * 2 + x % 2];
    }
  meet(name, ~0u, nullptr, site, [](void* const*) {
    Group& group = hopper.group();
    group.ended[Hopper::warp()] = group.issued[Hopper::warp()];
  });
}

void commit(void* const*) {
  Group& group = hopper.group();
  const int warp = Hopper::warp();
  group.earlier[warp] = group.committed[warp];
  group.committed[warp] = group.issued[warp];
  group.begun[warp] = false;
}

}  // namespace emulation

namespace emergence_ext::cuda {

using emulation::hopper;
using emulation::Site;

uint32_t cluster_rank() { return static_cast<uint32_t>(emulation::own_block()); }
void cluster_sync(Site site) { hopper.meet_cluster(site); }

void make_barrier(uint32_t barrier, int arrivals, Site site) {
  using emulation::Barrier;
  const int block = emulation::own_block();
  char* const place = emulation::at(barrier, sizeof(Barrier), 8, block, "make_barrier", site);
  if (arrivals < 1 || arrivals > Barrier::kMost)
    emulation::fail("make_barrier", site, "the number of arrivals is out of range");
  if (!emulation::read(place).invalid)
    emulation::fail("make_barrier", site, "there is a barrier already");
  Barrier made{};
  made.pending = made.arrivals = static_cast<unsigned>(arrivals) & 0xfffffu;
  made.biased_bytes = Barrier::kBias;
  made.seen = 1;
  emulation::write(place, made);
  hopper.made_barrier(place);
}

void fence_barriers() { hopper.fenced(); }

void barrier_arrive(uint32_t barrier, uint32_t rank, Site site) {
  const char* const name = "barrier_arrive";
  if (rank >= static_cast<uint32_t>(emulation::cluster().blocks))
    emulation::fail(name, site, "the cluster has no such block");
  if (emulation::exited(static_cast<int>(rank)) == emulation::cluster().threads)
    emulation::fail(name, site, "the block is gone");
  emulation::arrive(emulation::barrier_at(barrier, static_cast<int>(rank), name, site), 0, name,
                    site);
}

void barrier_expect(uint32_t barrier, uint32_t bytes, Site site) {
  const char* const name = "barrier_expect";
  emulation::arrive(emulation::barrier_at(barrier, emulation::own_block(), name, site), bytes, name,
                    site);
}

void barrier_wait(uint32_t barrier, uint32_t parity, Site site) {
  struct Wait {
    char* place;
    uint32_t parity;
  } wait{emulation::barrier_at(barrier, emulation::own_block(), "barrier_wait", site), parity};
  emulation::wait_until(
      "barrier_wait", site,
      [](void* what) {
        const auto& wait = *static_cast<Wait*>(what);
        auto barrier = emulation::read(wait.place);
        if (barrier.parity == wait.parity) return false;
        barrier.seen = 1;
        emulation::write(wait.place, barrier);
        return true;
      },
      &wait);
}

void load_box(uint32_t to, const TensorMap& map, int x, int y, int z, int w, uint32_t barrier,
              uint32_t blocks, Site site) {
  if (map.rank != 4) emulation::fail("load_box", site, "the map has not four dimensions");
  hopper.load({map, {x, y, z, w}, to, barrier, 0, site}, blocks, "load_box");
}

void commit_products(Site site) {
  emulation::meet("commit_products", ~0u, nullptr, site, emulation::commit);
}

void wait_for_earlier_products(Site site) {
  const char* const name = "wait_for_earlier_products";
  emulation::meet(name, ~0u, nullptr, site, [](void* const*) {});
  emulation::wait_until_made(name, hopper.group().earlier[emulation::Hopper::warp()], site);
}

void begin_products(Site site) {
  emulation::meet("begin_products", ~0u, nullptr, site,
                  [](void* const*) { hopper.group().begun[emulation::Hopper::warp()] = true; });
}

}  // namespace emergence_ext::cuda
