// SPDX-License-Identifier: Apache-2.0
#include "cache/profile.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "base/fd.h"
#include "base/text.h"

namespace imagefs {
namespace {

Profile Sample() {
  Profile profile;
  const Digest a = Sha256Of("a"), b = Sha256Of("b");
  profile.layers = {{a, 4096}, {b, 1024}};
  profile.parts = {{b, {0, 512}}, {a, {512, 4096}}, {b, {600, 1024}}};
  return profile;
}

TEST(Profile, ReadsWhatWasWritten) {
  const auto read = Profile::Parse(Sample().ToJson());
  ASSERT_TRUE(read.ok()) << read.status();
  ASSERT_EQ(read->parts.size(), 3U);
  EXPECT_EQ(read->parts[0].layer, Sha256Of("b"));
  EXPECT_EQ(read->parts[1].range, (ByteRange{512, 4096}));
  EXPECT_EQ(read->layers, Sample().layers);
}

TEST(Profile, RefusesWhatCannotBeRight) {
  const std::string good = Sample().ToJson();
  for (const auto& [from, to] :
       std::vector<std::pair<std::string, std::string>>{{"\"version\":1", "\"version\":2"},
                                                        {"[1,0,512]", "[2,0,512]"},
                                                        {"[1,0,512]", "[-1,0,512]"},
                                                        {"[1,0,512]", "[1,0,1025]"},
                                                        {"[1,0,512]", "[1,512,512]"},
                                                        {"[1,0,512]", "[1,-1,512]"},
                                                        {"[1,0,512]", "[1,0]"},
                                                        {"[1,0,512]", "7"},
                                                        {"sha256:", "sha999:"}}) {
    std::string wrong = good;
    const size_t at = wrong.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    EXPECT_FALSE(Profile::Parse(wrong.replace(at, from.size(), to)).ok()) << to;
  }
  EXPECT_FALSE(Profile::Parse("").ok());
  EXPECT_FALSE(Profile::Parse("[]").ok());
}

TEST(ProfileKeeper, KeepsAndForgets) {
  const std::string directory = StrCat(::testing::TempDir(), "/profile-", RandomHex(8));
  {
    auto kv = KeyValueStore::Open(directory);
    ASSERT_TRUE(kv.ok()) << kv.status();
    ProfileKeeper keeper(**kv, {});
    const Digest manifest = Sha256Of("manifest");
    EXPECT_TRUE(absl::IsNotFound(keeper.Get(manifest).status()));
    ASSERT_TRUE(keeper.Put(manifest, Sample()).ok());
    EXPECT_EQ(keeper.Get(manifest)->parts.size(), 3U);
    EXPECT_TRUE(keeper.Clear(manifest).ok());
    EXPECT_TRUE(absl::IsNotFound(keeper.Get(manifest).status()));
  }
  std::filesystem::remove_all(directory);
}

}  // namespace
}  // namespace imagefs
