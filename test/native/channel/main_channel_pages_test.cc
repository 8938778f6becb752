// Pages of the main channel: they go into the same memory as the packets', by the same book, and
// nothing outside a block is ever written.
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <cstring>

#include "channel/main_channel_pages.h"
#include "channel_fixture.h"

namespace {

using namespace fixture;  // NOLINT

constexpr uint64_t kPages = 300;

struct Guest {
  explicit Guest(bool file) {
    auto mapping = file ? Mapping::open_memfd("pages", kPages * kPageSize)
                        : Mapping::allocate(kPages * kPageSize, false);
    CHECK_OK(mapping);
    mapping_ = *mapping;
    // Two blocks of one mapping: what leaves the first would be seen in the second.
    auto memory = GuestMemory::create({RamBlock{"first", mapping_, 0, 200 * kPageSize},
                                       RamBlock{"second", mapping_, 200, 100 * kPageSize}});
    CHECK_OK(memory);
    memory_ = *memory;
    auto group = ReceiveGroup::create(memory_);
    CHECK_OK(group);
    group_ = *group;
  }
  [[nodiscard]] const uint8_t* page(uint64_t index) const {
    return mapping_->base() + index * kPageSize;
  }
  [[nodiscard]] uint64_t populated() const {
    std::vector<PageRange> ranges;
    CHECK_OK(mapping_->populated({0, kPages}, ranges));
    uint64_t pages = 0;
    for (const PageRange& range : ranges) pages += range.count;
    return pages;
  }

  std::shared_ptr<Mapping> mapping_;
  std::shared_ptr<GuestMemory> memory_;
  std::shared_ptr<ReceiveGroup> group_;
};

std::vector<uint8_t> filled(uint64_t pages, uint8_t with) {
  return std::vector<uint8_t>(pages * kPageSize, with);
}

void pages_and_zeros(bool file) {
  const Guest guest(file);
  ReceiveGroup& group = *guest.group_;
  // A zero page that never came stays absent.
  CHECK_OK(apply_zero_run(group, 0, {0, 200}));
  CHECK_EQ(guest.populated(), 0U);
  // Contents, over a word's boundary of the book; and the last page of a block.
  CHECK_OK(apply_pages(group, 0, 60, filled(10, 0x11)));
  CHECK_OK(apply_pages(group, 0, 199, filled(1, 0x22)));
  CHECK_OK(apply_pages(group, 1, 0, filled(1, 0x33)));
  CHECK_EQ(guest.page(60)[0], 0x11);
  CHECK_EQ(guest.page(69)[kPageSize - 1], 0x11);
  CHECK_EQ(guest.page(199)[7], 0x22);
  CHECK_EQ(guest.page(200)[7], 0x33);
  CHECK_EQ(guest.populated(), 12U);
  CHECK(group.received[0].test(60) && group.received[0].test(199) && group.received[1].test(0));
  CHECK(!group.received[0].test(59) && !group.received[0].test(70));
  // Zeros where something came, in the middle of a run and around it.
  CHECK_OK(apply_zero_run(group, 0, {62, 5}));
  CHECK_EQ(guest.page(61)[0], 0x11);
  for (uint64_t page = 62; page < 67; ++page) CHECK(is_zero_page(guest.page(page)));
  CHECK_EQ(guest.page(67)[0], 0x11);
  CHECK_OK(apply_zero_run(group, 0, {0, 200}));
  for (uint64_t page = 0; page < 200; ++page) CHECK(is_zero_page(guest.page(page)));
  CHECK_EQ(guest.page(200)[7], 0x33);
  // A page that came, went and comes again.
  CHECK_OK(apply_pages(group, 0, 64, filled(1, 0x44)));
  CHECK_EQ(guest.page(64)[0], 0x44);
}

TEST("pages and zero pages of the main channel, in anonymous memory") { pages_and_zeros(false); }
TEST("pages and zero pages of the main channel, in a file") { pages_and_zeros(true); }

TEST("a page that a packet brought is zeroed by a word") {
  const Guest guest(true);
  guest.group_->received[0].set(5);
  std::memset(guest.mapping_->base() + 5 * kPageSize, 0x55, kPageSize);
  CHECK_OK(apply_zero_run(*guest.group_, 0, {5, 1}));
  CHECK(is_zero_page(guest.page(5)));
}

TEST("pages outside a block are refused, and nothing is written") {
  const Guest guest(false);
  ReceiveGroup& group = *guest.group_;
  const auto page = filled(1, 0x66);
  CHECK(!apply_pages(group, 0, 200, page));
  CHECK(!apply_pages(group, 0, 199, filled(2, 0x66)));
  CHECK(!apply_pages(group, 0, UINT64_MAX, page));
  CHECK(!apply_pages(group, 2, 0, page));
  CHECK(!apply_pages(group, 0, 0, std::span(page).first(100)));
  CHECK(!apply_zero_run(group, 0, {0, 201}));
  CHECK(!apply_zero_run(group, 0, {UINT64_MAX, 2}));
  CHECK(!apply_zero_run(group, 2, {0, 1}));
  CHECK_EQ(guest.populated(), 0U);
}

TEST("memory that was taken away is not written any more") {
  const Guest guest(false);
  guest.memory_->revoke();
  CHECK(!apply_pages(*guest.group_, 0, 0, filled(1, 1)));
  CHECK(!apply_zero_run(*guest.group_, 0, {0, 1}));
}

TEST("a file that cannot grow is an error, not a signal") {
  const std::string path = "/tmp/multifd-pages-" + std::to_string(getpid());
  auto mapping = Mapping::open_file(path, kPages * kPageSize);
  unlink(path.c_str());
  CHECK_OK(mapping);
  auto memory =
      GuestMemory::create({RamBlock{"pc.ram", *mapping, 0, kPages * kPageSize}});
  CHECK_OK(memory);
  auto group = ReceiveGroup::create(*memory);
  CHECK_OK(group);
  const auto before = signal(SIGXFSZ, SIG_IGN);
  rlimit limit{};
  getrlimit(RLIMIT_FSIZE, &limit);
  const rlimit small{10 * kPageSize, limit.rlim_max};
  setrlimit(RLIMIT_FSIZE, &small);
  const auto fits = apply_pages(**group, 0, 9, filled(1, 1));
  const auto beyond = apply_pages(**group, 0, 10, filled(1, 1));
  setrlimit(RLIMIT_FSIZE, &limit);
  signal(SIGXFSZ, before);
  CHECK_OK(fits);
  CHECK(!beyond);
  CHECK_EQ(beyond.error().errno_value, EFBIG);
}

}  // namespace
