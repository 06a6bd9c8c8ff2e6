// SPDX-License-Identifier: Apache-2.0
#include "cache/store_check.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "base/fd.h"
#include "base/text.h"
#include "cache/image_store.h"
#include "tests/fakes/base/eventually.h"
#include "tests/fakes/cache/damage.h"
#include "tests/fakes/cache/fake_source.h"
#include "tests/fakes/cache/lazy_blob.h"

namespace imagefs {
namespace {

bool Go(size_t) { return true; }

class StoreCheckTest : public ::testing::Test {
 protected:
  StoreCheckTest() : sources_(repository_) {
    root_ = StrCat(::testing::TempDir(), "/check-", RandomHex(8));
    repository_.AddImage(
        "latest", {TarOf({{"big", MixedBytes(300'000, 1)}}), TarOf({{"etc/small", "hello"}})});
    blobs_ = {repository_.LayerBlob(0).digest, repository_.LayerBlob(1).digest};
    Open();
    chain_ = *Get();
    EXPECT_TRUE(Durable().ok());
  }
  ~StoreCheckTest() override {
    Close();
    std::filesystem::remove_all(root_);
  }

  void Open() { store_ = *ImageStore::Open({root_}, sources_); }
  void Close() {
    chain_.reset();
    store_.reset();
  }
  absl::StatusOr<ChainRef> Get() {
    absl::Notification ended;
    absl::StatusOr<ChainRef> chain;
    ResolveRequest request;
    request.reference = *Reference::Parse("registry.test/img:latest");
    request.platform = Platform::Host();
    store_->Resolve(request, [&](absl::StatusOr<ImageStore::Resolved> resolved) {
      EXPECT_TRUE(resolved.ok()) << resolved.status();
      store_->EnsureChain(resolved->image, resolved->source, IndexTrust::None(),
                          Priority::kForeground, [&](absl::StatusOr<ChainRef> made) {
                            chain = std::move(made);
                            ended.Notify();
                          });
    });
    ended.WaitForNotification();
    return chain;
  }
  absl::Status Durable() {
    absl::Notification ended;
    absl::Status result;
    store_->WaitDurable(chain_, [&](absl::Status status) {
      result = status;
      ended.Notify();
    });
    ended.WaitForNotification();
    return result;
  }
  CheckReport Check(bool repair) {
    absl::StatusOr<CheckReport> report = store_->Check({}, repair, Go);
    EXPECT_TRUE(report.ok()) << report.status();
    return report.ok() ? *std::move(report) : CheckReport();
  }
  // Returns the states, such as "right right", and the other findings.
  static std::string Words(const CheckReport& report) {
    std::vector<std::string> words;
    for (const CheckedLayer& layer : report.layers) words.emplace_back(layer.state);
    std::sort(words.begin(), words.end());
    std::string text;
    for (const std::string& word : words) StrAppend(&text, word, " ");
    for (const CheckFinding& finding : report.findings) {
      StrAppend(&text, finding.kind, ":", finding.action, " ");
    }
    return text;
  }
  std::string ActionOf(const CheckReport& report, std::string_view state) const {
    for (const CheckedLayer& layer : report.layers) {
      if (layer.state == state) return layer.action;
    }
    return "<none>";
  }
  size_t BlobReads() const {
    return repository_.Reads(blobs_[0]).size() + repository_.Reads(blobs_[1]).size();
  }
  std::string FileOf(size_t layer, std::string_view name) const {
    return StrCat(root_, "/layers/", chain_->layers[layer]->id.hex(), "/", name);
  }
  static void Scribble(const std::string& path) {
    const Fd fd = *OpenFile(path, O_WRONLY);
    struct stat st;
    ASSERT_EQ(fstat(fd.get(), &st), 0);
    for (uint64_t at = 0; at < static_cast<uint64_t>(st.st_size); at += 512) {
      ASSERT_TRUE(PwriteFull(fd.get(), "scribble", at).ok());
    }
  }
  static std::string SmallOf(const ErofsImage& index) {
    const auto directory = index.Lookup(index.root(), "etc");
    if (!directory.ok()) return std::string(directory.status().message());
    if (!directory->has_value()) return "<no etc>";
    const auto file = index.Lookup(**directory, "small");
    if (!file.ok() || !file->has_value()) return "<no small>";
    const auto stat = index.GetStat(**file);
    return stat.ok() ? StrCat(stat->size) : "<no stat>";
  }

  FakeRepository repository_;
  FakeSourceFactory sources_;
  std::string root_;
  std::vector<Digest> blobs_;
  std::unique_ptr<ImageStore> store_;
  ChainRef chain_;
};

TEST_F(StoreCheckTest, NothingIsFoundInAStoreThatIsWell) {
  EXPECT_EQ(Words(Check(false)), "right right ");
  EXPECT_EQ(Words(Check(true)), "right right ");
}

// A layer may be collected between the listing and its check: this is not a loss.
TEST_F(StoreCheckTest, WhatIsCollectedMeanwhileIsNotLost) {
  chain_.reset();
  bool removed = false;
  const absl::StatusOr<CheckReport> report = store_->Check({}, false, [&](uint64_t) {
    if (!std::exchange(removed, true)) {
      EXPECT_TRUE(store_->Remove(*Reference::Parse("registry.test/img:latest")).ok());
    }
    return true;
  });
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_TRUE(removed);
  for (const CheckedLayer& layer : report->layers) EXPECT_NE(layer.state, "lost") << layer.reason;
  EXPECT_LE(report->layers.size(), 1u);
  EXPECT_TRUE(report->findings.empty());
}

// The tree of a mount is repaired in the same file and object, whatever the damage.
TEST_F(StoreCheckTest, ATreeThatIsShownIsMergedAgainInPlace) {
  const std::string path = chain_->index_path;
  const std::string before = *ReadFile(path, 1 << 30);
  const Fd shown = *OpenFile(path, O_RDONLY);  // as a kernel mount has it
  const std::vector<std::function<void()>> damages = {
      [&] { Scribble(path); },
      [&] { ASSERT_EQ(truncate(path.c_str(), 0), 0); },
      [&] { ASSERT_EQ(truncate(path.c_str(), 700), 0); },
      [&] { ASSERT_EQ(truncate(path.c_str(), 1 << 20), 0); },
  };
  for (const std::function<void()>& damage : damages) {
    damage();
    const auto same = [&] {
      std::string bytes(before.size() + 1, '\0');
      const auto got = PreadFull(shown.get(), absl::MakeSpan(bytes), 0);
      return got.ok() && bytes.substr(0, *got) == before;
    };
    ASSERT_TRUE(Eventually([&] { return same() && !chain_->index->damaged(); }));
    EXPECT_EQ(SmallOf(*chain_->index), "5");
  }
  EXPECT_EQ(Words(Check(false)), "right right ");
  // If the file is removed, users still have it open; the next process finds it again.
  ASSERT_EQ(unlink(path.c_str()), 0);
  EXPECT_EQ(Words(Check(false)), "right right tree:merged again ");
  EXPECT_EQ(*ReadFile(path, 1 << 30), before);
  EXPECT_EQ(SmallOf(*chain_->index), "5");
  EXPECT_EQ(BlobReads(), 2u);
}

TEST_F(StoreCheckTest, ATreeThatIsNotShownIsMergedByARepair) {
  const std::string path = chain_->index_path;
  const std::string before = *ReadFile(path, 1 << 30);
  Close();
  Open();
  Scribble(path);
  EXPECT_EQ(Words(Check(false)), "right right tree: ");
  EXPECT_EQ(Words(Check(true)), "right right tree:merged again ");
  EXPECT_EQ(*ReadFile(path, 1 << 30), before);
  EXPECT_EQ(Words(Check(true)), "right right ");
}

TEST_F(StoreCheckTest, AnIndexIsMadeAgainOfTheData) {
  const std::string path = FileOf(1, "index");
  const std::string before = *ReadFile(path, 1 << 30);
  const std::string id = chain_->layers[1]->id.ToString();
  Scribble(path);
  ASSERT_TRUE(Eventually([&] { return *ReadFile(path, 1 << 30) == before; }));
  ASSERT_TRUE(Eventually([&] { return SmallOf(*chain_->layers[1]->index) == "5"; }));
  // While nobody has it open, and across a restart.
  for (const bool gone : {false, true}) {
    Close();
    if (gone) {
      ASSERT_EQ(unlink(path.c_str()), 0);
    } else {
      ASSERT_EQ(truncate(path.c_str(), 100), 0);
    }
    Open();
    const CheckReport report = Check(false);
    EXPECT_EQ(Words(report), "repaired right ");
    EXPECT_EQ(ActionOf(report, "repaired"), "made again");
    EXPECT_EQ(*ReadFile(path, 1 << 30), before);
  }
  EXPECT_EQ(BlobReads(), 2u) << "nothing had to be fetched";
}

TEST_F(StoreCheckTest, ALostLayerIsFetchedByARepair) {
  const std::string data = FileOf(0, "data"), table = FileOf(0, "access");
  Close();
  unlink(table.c_str());
  Scribble(data);
  Open();
  EXPECT_EQ(Words(Check(false)), "lost right ");
  const CheckReport report = Check(true);
  EXPECT_EQ(Words(report), "absent right ");
  EXPECT_EQ(ActionOf(report, "absent"), "fetched");
  EXPECT_EQ(Words(Check(true)), "right right ");
  EXPECT_EQ(BlobReads(), 3u);
  const auto lose = [&] {
    ASSERT_TRUE(Eventually([&] { return access(table.c_str(), F_OK) == 0; }));
    unlink(table.c_str());
    Scribble(data);
  };
  // The watch may have noticed it before the check.
  const auto repair = [&] {
    const CheckReport repaired = Check(true);
    const std::string action = ActionOf(repaired, "lost");
    return action == "<none>" ? ActionOf(repaired, "absent") : action;
  };
  lose();
  EXPECT_EQ(repair(), "fetched");
  // If it is unavailable, the report says so.
  lose();
  repository_.Deny("");
  EXPECT_NE(repair().find("not fetched: "), std::string::npos);
}

TEST_F(StoreCheckTest, WhatNoRecordNamesIsRemovedByARepair) {
  const std::vector<std::string> strays = {"layers/tmp-1", "layers/stray", "chains/stray",
                                           "blobs/stray"};
  for (const std::string& stray : strays) {
    ASSERT_TRUE(WriteFileDurably(StrCat(root_, "/", stray), "x").ok());
  }
  EXPECT_EQ(Words(Check(false)), "right right file: file: file: ");
  EXPECT_EQ(Words(Check(true)), "right right file:removed file:removed file:removed ");
  EXPECT_EQ(Words(Check(true)), "right right ");
  for (const std::string& stray : strays) {
    // What may be in progress in this process is kept until the next start.
    EXPECT_EQ(access(StrCat(root_, "/", stray).c_str(), F_OK) == 0, stray == "layers/tmp-1");
  }
}

TEST_F(StoreCheckTest, RecordsAreFetchedOrForgotten) {
  const std::string db = root_ + "/db";
  for (const std::string_view prefix : {"manifest/", "config/"}) {
    Close();
    ASSERT_TRUE(DamageRecord(db, KeysOf(db, prefix).at(0)));
    Open();
    EXPECT_EQ(Words(Check(false)), StrCat("right right image: record: "));
    EXPECT_EQ(Words(Check(true)), "right right image:fetched again ");
    EXPECT_EQ(Words(Check(true)), "right right ");
    EXPECT_EQ(store_->ListImages(false)->size(), 1u);
  }
  Close();
  ASSERT_TRUE(DamageRecord(db, KeysOf(db, "image/").at(0)));
  Open();
  const CheckReport report = Check(true);
  ASSERT_EQ(report.findings.size(), 1u);
  EXPECT_EQ(report.findings[0].name, "registry.test/img:latest");
  EXPECT_NE(report.findings[0].action.find("imagefs pull registry.test/img:latest"),
            std::string::npos);
  EXPECT_EQ(Words(Check(true)), "right right ");
}

}  // namespace
}  // namespace imagefs
