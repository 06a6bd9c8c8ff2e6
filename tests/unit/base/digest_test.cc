// SPDX-License-Identifier: Apache-2.0
#include "base/digest.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>

#include "base/text.h"

namespace imagefs {
namespace {

constexpr std::string_view kAbc =
    "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

TEST(DigestTest, RoundTrip) {
  const absl::StatusOr<Digest> digest = Digest::Parse(kAbc);
  ASSERT_TRUE(digest.ok()) << digest.status();
  EXPECT_EQ(digest->ToString(), kAbc);
  EXPECT_EQ(digest->hex(), kAbc.substr(7));
  EXPECT_EQ(digest->Short(), "ba7816bf8f01");
  EXPECT_FALSE(digest->empty());
  EXPECT_TRUE(Digest().empty());
  EXPECT_EQ(*digest, Sha256Of("abc"));
}

TEST(DigestTest, RefusesWhatIsNone) {
  const std::string good(kAbc);
  for (const std::string& bad : {std::string(), std::string("sha256:"), good.substr(1), good + "0",
                                 good.substr(0, good.size() - 1), "sha256:" + std::string(64, 'A'),
                                 "sha256:" + std::string(64, 'g'), "md5:" + std::string(64, '0'),
                                 std::string(64, '0'), "sha256:" + std::string(63, '0') + '\0'}) {
    EXPECT_TRUE(absl::IsInvalidArgument(Digest::Parse(bad).status())) << bad;
  }
  const absl::Status sha512 = Digest::Parse("sha512:" + std::string(128, '0')).status();
  EXPECT_NE(sha512.message().find("sha512 is not supported"), absl::string_view::npos) << sha512;
  const absl::Status lines = Digest::Parse("sha256:a\nb").status();
  EXPECT_EQ(lines.message().find('\n'), absl::string_view::npos) << "a message is one line";
}

TEST(Sha256Test, PiecesMovesAndReuse) {
  Sha256 hash;
  hash.Update("a");
  Sha256 moved(std::move(hash));
  moved.Update("");
  moved.Update("bc");
  EXPECT_EQ(moved.Finish().ToString(), kAbc);
  EXPECT_EQ(moved.Finish(), Sha256Of("")) << "starts anew";
  Sha256 assigned;
  assigned = std::move(moved);
  assigned.Update("abc");
  EXPECT_EQ(assigned.Finish().ToString(), kAbc);
}

TEST(Crc32cTest, KnownValues) {
  // The check value of the CRC catalogue, which inverts at both ends.
  EXPECT_EQ(~Crc32c(~0u, "123456789"), 0xe3069283u);
  // RFC 3720, B.4: 32 bytes of zeros.
  EXPECT_EQ(~Crc32c(~0u, std::string(32, '\0')), 0x8a9136aau);
  EXPECT_EQ(Crc32c(Crc32c(5, "ab"), "cd"), Crc32c(5, "abcd"));
}

}  // namespace
}  // namespace imagefs
