// SPDX-License-Identifier: Apache-2.0
#include "cache/resolve_job.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/synchronization/notification.h"
#include "base/text.h"
#include "image/index_tag.h"
#include "tests/fakes/cache/fake_source.h"
#include "tests/fakes/cache/lazy_blob.h"

namespace imagefs {
namespace {

class ResolveJobTest : public ::testing::Test {
 protected:
  ResolveJobTest() : source_(repository_.Open("")) {
    dir_ = StrCat(::testing::TempDir(), "/resolve-", RandomHex(8));
    std::filesystem::create_directory(dir_);
    kv_ = *KeyValueStore::Open(dir_ + "/kv");
    manifest_ = repository_.AddImage("latest", {TarOf({{"a", "1"}})});
    index_ = repository_.AddIndex("multi", {{"latest", Platform::Host().ToString()}});
  }
  ~ResolveJobTest() override {
    kv_.reset();
    std::filesystem::remove_all(dir_);
  }

  static ResolveRequest Request(const std::string& name, IndexTrust trust) {
    ResolveRequest request;
    request.reference = *Reference::Parse("registry.test/img" + name);
    request.trust = trust;
    return request;
  }

  // The manifests asked for until the image is resolved.
  std::vector<std::string> Resolve(ResolveRequest request) {
    IndexFinder::Options options;
    options.directory = dir_;
    IndexFinder finder(options);
    absl::Notification ended;
    absl::StatusOr<ImageRef> image;
    StartResolve(std::move(request), source_, *kv_, finder,
                 {"", CancelToken(), std::make_shared<LivePriority>(Priority::kForeground),
                  [&](absl::StatusOr<ImageRef> result) {
                    image = std::move(result);
                    ended.Notify();
                  }});
    ended.WaitForNotification();
    EXPECT_TRUE(image.ok()) << image.status();
    if (image.ok()) {
      EXPECT_EQ((*image)->manifest_digest, manifest_);
    }
    return repository_.manifests_asked();
  }

  static ptrdiff_t PlaceOf(const std::string& name, const std::vector<std::string>& asked) {
    EXPECT_EQ(std::count(asked.begin(), asked.end(), name), 1) << name;
    return std::find(asked.begin(), asked.end(), name) - asked.begin();
  }

  std::string dir_;
  FakeRepository repository_;
  std::shared_ptr<ImageSource> source_;
  std::unique_ptr<KeyValueStore> kv_;
  Digest manifest_, index_;
};

TEST_F(ResolveJobTest, TheIndexOfAKnownManifestIsAskedForWithoutWaitingForIt) {
  const auto asked = Resolve(Request("@" + manifest_.ToString(), IndexTrust::Any()));
  EXPECT_LT(PlaceOf(IndexTagOf(manifest_), asked), PlaceOf(manifest_.ToString(), asked));
}

TEST_F(ResolveJobTest, TheIndexOfAChosenManifestIsAskedForWithoutWaitingForIt) {
  for (const std::string& name : {std::string(":multi"), "@" + index_.ToString()}) {
    SCOPED_TRACE(name);
    ResolveRequest request = Request(name, IndexTrust::Any());
    request.platform = Platform::Host();
    const size_t before = repository_.manifests_asked().size();
    std::vector<std::string> asked = Resolve(std::move(request));
    asked.erase(asked.begin(), asked.begin() + static_cast<ptrdiff_t>(before));
    EXPECT_EQ(asked.size(), 3U) << "nothing is asked about the list itself";
    EXPECT_LT(PlaceOf(IndexTagOf(manifest_), asked), PlaceOf(manifest_.ToString(), asked));
  }
}

TEST_F(ResolveJobTest, WithoutTrustNothingIsAskedForInVain) {
  EXPECT_EQ(Resolve(Request("@" + manifest_.ToString(), IndexTrust::None())),
            std::vector<std::string>{manifest_.ToString()});
}

}  // namespace
}  // namespace imagefs
