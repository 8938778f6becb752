// Tests of the contract of compression methods that need none of them: the table's lookups, none,
// and what a codec is handed.
#include <cstring>
#include <string>
#include <vector>

#include "base/iov.h"
#include "check.h"
#include "fake_codec.h"
#include "payload/payload.h"

namespace {

using namespace multifd;  // NOLINT

const std::array kMethods = {uncompressed_method(), fake_codec::method()};

TEST("none has no codec: its pages travel as they are") {
  const auto encoder = make_encoder(kMethods, "none", std::nullopt);
  CHECK_OK(encoder);
  CHECK(*encoder == nullptr);
  const auto decoder = make_decoder(kMethods, "none");
  CHECK_OK(decoder);
  CHECK(*decoder == nullptr);
}

TEST("a method is found by its name, and its codecs carry its flag") {
  const auto encoder = make_encoder(kMethods, "fake", std::nullopt);
  CHECK_OK(encoder);
  CHECK_EQ((*encoder)->flag(), fake_codec::kFlag);
  CHECK((*encoder)->bytes_max() <= kPayloadBytesMax);
  const auto decoder = make_decoder(kMethods, "fake");
  CHECK_OK(decoder);
  CHECK_EQ((*decoder)->flag(), fake_codec::kFlag);
}

TEST("an unknown method is refused with the names of those that there are") {
  for (const auto* name : {"zstd", "", "non", "fakefake"}) {
    const auto encoder = make_encoder(kMethods, name, std::nullopt);
    CHECK(!encoder);
    CHECK(encoder.error().code == ErrorCode::kUnsupported);
    CHECK(std::strstr(encoder.error().detail, "none, fake") != nullptr);
    CHECK(!make_decoder(kMethods, name));
  }
}

TEST("a level outside the method's range is refused, and the method has the last word") {
  for (const int level : {0, 6, -1, 1000}) {
    const auto encoder = make_encoder(kMethods, "fake", level);
    CHECK(!encoder);
    CHECK(encoder.error().code == ErrorCode::kLimit);
    CHECK(std::strstr(encoder.error().detail, "1 to 5 for fake") != nullptr);
  }
  for (const int level : {1, fake_codec::kDefaultLevel, 4}) {
    CHECK_OK(make_encoder(kMethods, "fake", level));
  }
  CHECK(!make_encoder(kMethods, "fake", 5));
  CHECK(!make_encoder(kMethods, "none", 1));
}

TEST("every page of every run is copied once, in order") {
  std::vector<uint8_t> memory(8 * kPageSize);
  for (size_t i = 0; i < memory.size(); ++i) memory[i] = static_cast<uint8_t>(i / kPageSize);
  const std::array<iovec, 3> runs = {iovec{&memory[6 * kPageSize], 2 * kPageSize},
                                     iovec{memory.data(), kPageSize},
                                     iovec{&memory[3 * kPageSize], 3 * kPageSize}};
  CHECK_EQ(multifd::bytes_of(runs), 6 * kPageSize);
  std::array<uint8_t, kPageSize> buffer;
  std::vector<unsigned> seen;
  CHECK_OK(for_each_page_copy(runs, buffer.data(), [&](const uint8_t* page) -> Result<void> {
    CHECK(page == buffer.data());
    CHECK_EQ(unsigned{page[0]}, unsigned{page[kPageSize - 1]});
    seen.push_back(page[0]);
    return {};
  }));
  CHECK(seen == std::vector<unsigned>({6, 7, 0, 3, 4, 5}));
}

TEST("an error ends the walk over the pages") {
  std::vector<uint8_t> memory(4 * kPageSize);
  const std::array<iovec, 2> runs = {iovec{memory.data(), 2 * kPageSize},
                                     iovec{&memory[2 * kPageSize], 2 * kPageSize}};
  std::array<uint8_t, kPageSize> buffer;
  int pages = 0;
  const auto walked =
      for_each_page_copy(runs, buffer.data(), [&](const uint8_t*) -> Result<void> {
        if (++pages == 2) return Error::make(ErrorCode::kLimit, "enough");
        return {};
      });
  CHECK(!walked);
  CHECK_EQ(pages, 2);
}

}  // namespace
