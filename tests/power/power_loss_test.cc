// SPDX-License-Identifier: Apache-2.0
// "Durable before acknowledged": the power goes after every single sync of a store's life. In the
// next boot the store opens, what was acknowledged is there and whole, and what was not takes no
// space once it was collected.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/synchronization/notification.h"
#include "base/fd.h"
#include "base/text.h"
#include "cache/image_store.h"
#include "snap/snapshot_table.h"
#include "tests/fakes/cache/fake_source.h"
#include "tests/fakes/cache/lazy_blob.h"
#include "tests/power/synced_disk.h"

namespace imagefs {
namespace {

constexpr char kFirstBoot[] = "11111111-0000-4000-8000-000000000001";
constexpr char kNextBoot[] = "22222222-0000-4000-8000-000000000002";

class PowerLossTest : public ::testing::Test {
 protected:
  PowerLossTest() : sources_(repository_) {
    folder_ =
        StrCat(std::filesystem::canonical(::testing::TempDir()).string(), "/power-", RandomHex(8));
    std::filesystem::create_directories(folder_ + "/root");
    SetBootId(kFirstBoot);
    repository_.AddImage("latest", {TarOf({{"one", MixedBytes(30'000, 1)}}),
                                    TarOf({{"two", MixedBytes(20'000, 2)}})});
    repository_.AddImage("other", {TarOf({{"three", MixedBytes(10'000, 3)}})});
  }
  ~PowerLossTest() override {
    store_.reset();
    SetBootId("");
    std::filesystem::remove_all(folder_);
  }

  absl::Status Open(const std::string& root) {
    store_.reset();
    root_ = root;
    auto store = ImageStore::Open({root}, sources_);
    if (store.ok()) store_ = *std::move(store);
    return store.status();
  }
  static Reference Ref(const std::string& tag) {
    return *Reference::Parse(StrCat("registry.test/img:", tag));
  }
  // With `durable`, as `imagefs pull`; else as `imagefs mount` has it.
  absl::StatusOr<ChainRef> Pull(const std::string& tag, bool durable, bool offline = false) {
    absl::Notification ended;
    absl::StatusOr<ChainRef> chain;
    ResolveRequest request;
    request.reference = Ref(tag);
    request.platform = Platform::Host();
    if (offline) request.policy = PullPolicy::kNever;
    store_->Resolve(request, [&](absl::StatusOr<ImageStore::Resolved> resolved) {
      if (!resolved.ok()) {
        chain = resolved.status();
        return ended.Notify();
      }
      store_->EnsureChain(resolved->image, resolved->source, IndexTrust::None(),
                          Priority::kForeground, [&](absl::StatusOr<ChainRef> made) {
                            chain = std::move(made);
                            ended.Notify();
                          });
    });
    ended.WaitForNotification();
    if (!chain.ok() || !durable) return chain;
    absl::Notification synced;
    absl::Status status;
    store_->WaitDurable(*chain, [&](absl::Status result) {
      status = std::move(result);
      synced.Notify();
    });
    synced.WaitForNotification();
    return status.ok() ? chain : status;
  }
  static std::string Content(const Chain& chain, const std::string& name) {
    const auto nid = chain.index->Lookup(chain.index->root(), name);
    if (!nid.ok() || !nid->has_value()) return StrCat("<no ", name, ">");
    std::string content(chain.index->GetStat(**nid)->size, '?');
    for (uint64_t at = 0; at < content.size();) {
      const Extent extent = *chain.index->Map(**nid, at);
      const int data = chain.layers[extent.device - 1u]->data.get();
      EXPECT_TRUE(
          PreadFull(data, absl::MakeSpan(content).subspan(at, extent.length), extent.data_offset)
              .ok());
      at += extent.length;
    }
    return content;
  }
  static bool IsRight(const Chain& chain, const std::string& tag) {
    if (tag == "other") return Content(chain, "three") == MixedBytes(10'000, 3);
    return Content(chain, "one") == MixedBytes(30'000, 1) &&
           Content(chain, "two") == MixedBytes(20'000, 2);
  }
  std::set<std::string> Names(const std::string& sub) const {
    std::set<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(root_ + sub)) {
      names.insert(entry.path().filename().string());
    }
    return names;
  }
  bool Listed(const std::string& tag) const {
    const auto images = store_->ListImages(false);
    if (!images.ok()) return false;
    for (const ImageRecord& image : *images) {
      if (image.reference == Ref(tag).ToString()) return true;
    }
    return false;
  }

  // What was promised, and since when.
  struct Promise {
    size_t step;
    std::string what;
    std::function<void()> holds;
  };
  void Promised(const SyncedDisk& disk, const std::string& what, std::function<void()> holds) {
    promises_.push_back({disk.steps(), what, std::move(holds)});
  }
  void PromisePulled(const SyncedDisk& disk, const std::string& tag) {
    Promised(disk, "pulled " + tag, [this, tag] {
      EXPECT_TRUE(Listed(tag));
      const auto chain = Pull(tag, false, /*offline=*/true);
      ASSERT_TRUE(chain.ok()) << chain.status();
      EXPECT_TRUE(IsRight(**chain, tag));
    });
  }
  void PromiseRecord(const SyncedDisk& disk, const std::string& key, const std::string& value) {
    Promised(disk, key, [this, key, value] {
      const auto found = store_->kv().Get(key);
      ASSERT_TRUE(found.ok()) << found.status();
      EXPECT_EQ(found->value_or("<none>"), value);
    });
  }

  // A store's life, from the folder that is made for it on.
  void Live(const SyncedDisk& disk) {
    ASSERT_TRUE(Open(folder_ + "/root").ok());
    ASSERT_TRUE(Pull("latest", false).ok());
    Promised(disk, "listed latest", [this] { EXPECT_TRUE(Listed("latest")); });
    WriteBatch mount;
    mount.Put("mount//m", "shown");
    ASSERT_TRUE(store_->kv().Write(mount, true).ok());
    PromiseRecord(disk, "mount//m", "shown");
    ASSERT_TRUE(Pull("latest", true).ok());
    PromisePulled(disk, "latest");
    {
      auto table = SnapshotTable::Open(store_->kv());
      ASSERT_TRUE(table.ok()) << table.status();
      SnapshotRecord record;
      record.info.name = "active";
      record.info.kind = SnapshotKind::kActive;
      record.id = (*table)->NextId();
      auto place = (*table)->Reserve("active", "");
      ASSERT_TRUE(place.ok());
      ASSERT_TRUE((*table)->Insert(*std::move(place), record).ok());
      const size_t inserted = disk.steps();
      ASSERT_TRUE((*table)->Commit("active", "committed", {}, 1).ok());
      promises_.push_back({inserted, "snapshot", [this] {
                             const auto again = SnapshotTable::Open(store_->kv());
                             ASSERT_TRUE(again.ok()) << again.status();
                             EXPECT_EQ((*again)->size(), 1u);
                           }});
      Promised(disk, "snapshot committed", [this] {
        const auto again = SnapshotTable::Open(store_->kv());
        ASSERT_TRUE(again.ok()) << again.status();
        EXPECT_TRUE((*again)->Find("committed").ok());
        EXPECT_FALSE((*again)->Find("active").ok());
      });
    }
    ASSERT_TRUE(Pull("other", true).ok());
    const size_t other = disk.steps();
    ASSERT_TRUE(store_->Remove(Ref("other")).ok());
    removed_ = disk.steps();
    promises_.push_back({other, "pulled other", [this] {
                           if (cut_ >= removing_) return;  // it may be half removed
                           const auto chain = Pull("other", false, /*offline=*/true);
                           ASSERT_TRUE(chain.ok()) << chain.status();
                           EXPECT_TRUE(IsRight(**chain, "other"));
                         }});
    removing_ = other + 1;
    Promised(disk, "removed other", [this] { EXPECT_FALSE(Listed("other")); });
    // Over a graceful end and a start.
    ASSERT_TRUE(Open(folder_ + "/root").ok());
    ASSERT_TRUE(Pull("latest", false, /*offline=*/true).ok());
    store_.reset();
  }

  FakeRepository repository_;
  FakeSourceFactory sources_;
  std::string folder_, root_;
  std::unique_ptr<ImageStore> store_;
  std::vector<Promise> promises_;
  size_t cut_ = 0, removing_ = SIZE_MAX, removed_ = SIZE_MAX;
};

TEST_F(PowerLossTest, WhatWasAcknowledgedIsThereAfterEverySync) {
  const SyncedDisk disk(folder_ + "/root");
  Live(disk);
  ASSERT_FALSE(HasFatalFailure());
  const size_t steps = disk.steps();
  EXPECT_GT(steps, 20u) << "the syncs are not seen";
  SetBootId(kNextBoot);
  size_t kept = 0;
  for (cut_ = 0; cut_ <= steps; ++cut_) {
    SCOPED_TRACE(StrCat("after sync ", cut_, " of ", steps, ", of ", disk.StepName(cut_)));
    const std::string left = StrCat(folder_, "/cut", cut_);
    disk.Restore(cut_, left);
    const absl::Status opened = Open(left);
    ASSERT_TRUE(opened.ok()) << opened;
    for (const Promise& promise : promises_) {
      if (promise.step > cut_) continue;
      SCOPED_TRACE(promise.what);
      promise.holds();
      ++kept;
    }
    // What is listed can be had, with the registry's help.
    for (const std::string tag : {"latest", "other"}) {
      if (!Listed(tag)) continue;
      const auto chain = Pull(tag, true);
      ASSERT_TRUE(chain.ok()) << tag << ": " << chain.status();
      EXPECT_TRUE(IsRight(**chain, tag)) << tag;
    }
    // What no image needs takes no space.
    ASSERT_TRUE(store_->Collect().ok());
    std::set<std::string> needed;
    for (const std::string tag : {"latest", "other"}) {
      const auto image = store_->FindImage(Ref(tag), Platform::Host());
      if (!image.ok()) continue;
      for (const Digest& id : (*image)->layer_ids) needed.insert(id.hex());
    }
    EXPECT_EQ(Names("/layers"), needed);
    EXPECT_LE(Names("/chains").size(), needed.empty() ? 0u : needed.size());
    EXPECT_TRUE(Names("/blobs").empty());
    store_.reset();
    std::filesystem::remove_all(left);
  }
  EXPECT_GT(kept, steps);
}

}  // namespace
}  // namespace imagefs
