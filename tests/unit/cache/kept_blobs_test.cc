// SPDX-License-Identifier: Apache-2.0
#include "cache/kept_blobs.h"

#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

#include "absl/synchronization/notification.h"
#include "base/text.h"
#include "cache/layer_store.h"
#include "tests/fakes/base/eventually.h"
#include "tests/fakes/cache/fake_source.h"
#include "tests/fakes/cache/lazy_blob.h"

namespace imagefs {
namespace {

class KeptBlobsTest : public ::testing::Test {
 protected:
  KeptBlobsTest() : dir_(StrCat(::testing::TempDir(), "/kept-", RandomHex(8))) {
    std::filesystem::create_directories(dir_);
    FillScheduler::Options options;
    options.quiet = absl::ZeroDuration();
    scheduler_ = std::make_unique<FillScheduler>(options);
    Open();
  }
  ~KeptBlobsTest() override {
    scheduler_.reset();
    std::filesystem::remove_all(dir_);
  }
  void Open(const std::string& boot = "aaaaaaaa-1", uint64_t most = 1 << 20) {
    blobs_ = KeptBlobs::Open({dir_, boot, most, 0}, *scheduler_);
  }
  // A file of a download, which is removed after it was offered.
  Digest Offer(const std::string& bytes) {
    const std::string path = dir_ + "/download";
    std::ofstream(path) << bytes;
    const Digest digest = Sha256Of(bytes);
    blobs_->Offer(digest, path);
    std::filesystem::remove(path);
    return digest;
  }
  std::string ReadAll(const Digest& blob) const {
    const absl::StatusOr<Fd> fd = blobs_->Read(blob);
    if (!fd.ok()) return std::string(fd.status().message());
    std::string out(1 << 20, '\0');
    out.resize(*PreadFull(fd->get(), absl::MakeSpan(out), 0));
    return out;
  }
  size_t Files() const {
    return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(dir_), {}));
  }
  absl::Status Fetch(const Descriptor& blob) {
    absl::Notification ended;
    absl::Status status;
    blobs_->Fetch(blob, repository_.Open("alice"), [&](const absl::Status& s) {
      status = s;
      ended.Notify();
    });
    ended.WaitForNotification();
    return status;
  }

  const std::string dir_;
  FakeRepository repository_;
  std::unique_ptr<FillScheduler> scheduler_;
  std::shared_ptr<KeptBlobs> blobs_;
};

TEST_F(KeptBlobsTest, AnOfferedFileOutlivesItsDownloadUntilItIsDropped) {
  std::atomic<int> offers{0};
  blobs_->OnOffer([&] { ++offers; });
  const Digest blob = Offer("hello");
  EXPECT_EQ(offers, 1);
  EXPECT_EQ(ReadAll(blob), "hello");
  Offer("hello");
  EXPECT_EQ(blobs_->List().size(), 1U);
  blobs_->Drop(blob);
  EXPECT_TRUE(absl::IsNotFound(blobs_->Read(blob).status()));
  EXPECT_EQ(Files(), 0U);
}

TEST_F(KeptBlobsTest, FilesOfThisBootAreFoundAgainAndOthersAreStrays) {
  const Digest blob = Offer("hello");
  Open();
  EXPECT_EQ(ReadAll(blob), "hello");
  Open("bbbbbbbb-2");
  EXPECT_TRUE(blobs_->List().empty());
  EXPECT_EQ(Downloads(dir_, "bbbbbbbb-2").Strays().size(), 1U);
  KeptBlobs::RemoveAll(dir_);
  EXPECT_EQ(Files(), 0U);
}

TEST_F(KeptBlobsTest, KeepsNoMoreThanItMay) {
  const Digest large = Offer(std::string(3 << 20, 'a'));
  EXPECT_EQ(blobs_->List().size(), 1U) << "one alone may be larger";
  Offer("hello");
  EXPECT_EQ(blobs_->List().size(), 1U);
  EXPECT_TRUE(absl::IsResourceExhausted(Fetch(repository_.AddBlob("x"))));
  blobs_->Drop(large);
  EXPECT_EQ(ReadAll(Offer("hello")), "hello");
}

TEST_F(KeptBlobsTest, FetchesAWholeBlobInParts) {
  const Descriptor blob = repository_.AddBlob(MixedBytes(9 << 20, 1));
  ASSERT_TRUE(Fetch(blob).ok());
  EXPECT_EQ(repository_.Reads(blob.digest).size(), 3U);
  EXPECT_EQ(*Sha256OfFile(blobs_->Read(blob.digest)->get()), blob.digest);
  EXPECT_EQ(Files(), 1U);
}

TEST_F(KeptBlobsTest, AFailedFetchGoesOnWhereItStopped) {
  const Descriptor blob = repository_.AddBlob(MixedBytes(6 << 20, 2));
  repository_.FailAt(blob.digest, 5 << 20, absl::UnavailableError("gone"), 1);
  EXPECT_TRUE(absl::IsUnavailable(Fetch(blob)));
  const size_t before = repository_.Reads(blob.digest).size();
  ASSERT_TRUE(Fetch(blob).ok());
  EXPECT_GE(repository_.Reads(blob.digest).at(before).begin, uint64_t{4} << 20);
}

TEST_F(KeptBlobsTest, WrongBytesAreNotKept) {
  const Descriptor blob = repository_.AddBlob(MixedBytes(5 << 20, 3));
  repository_.CorruptAt(blob.digest, 1000, 1);
  EXPECT_TRUE(absl::IsDataLoss(Fetch(blob)));
  EXPECT_EQ(Files(), 0U);
  EXPECT_TRUE(Fetch(blob).ok());
}

TEST_F(KeptBlobsTest, AFetchIsGivenUpAndItsPartRemoved) {
  const Descriptor blob = repository_.AddBlob(MixedBytes(5 << 20, 4));
  repository_.HoldAt(blob.digest, 1 << 20);
  absl::Notification ended;
  absl::Status status;
  blobs_->Fetch(blob, repository_.Open("alice"), [&](const absl::Status& s) {
    status = s;
    ended.Notify();
  });
  repository_.AwaitHeld(blob.digest);
  blobs_->DropParts();
  EXPECT_EQ(Files(), 1U) << "it is being written";
  blobs_->Cancel();
  ended.WaitForNotification();
  EXPECT_TRUE(absl::IsCancelled(status)) << status;
  blobs_->DropParts();
  EXPECT_EQ(Files(), 0U);
}

// The store of layers offers what a pass has read, before the layer can be found.
TEST(KeptBlobsOfLayersTest, APassLeavesItsBlob) {
  const std::string root = StrCat(::testing::TempDir(), "/kept-layers-", RandomHex(8));
  std::filesystem::create_directories(root);
  FakeRepository repository;
  const std::string tar = TarOf({{"big", std::string(300'000, 'b')}});
  repository.AddImage("latest", {tar});
  for (const bool keep : {true, false}) {
    auto kv = *KeyValueStore::Open(root + "/kv");
    LayerStore::Options options;
    options.root = root;
    options.keep_blobs = keep;
    auto store = *LayerStore::Open(options, *kv);
    ASSERT_EQ(store->kept_blobs() != nullptr, keep);
    if (!keep) break;
    LayerStore::Request request;
    request.diff_id = Sha256Of(tar);
    request.blob = repository.LayerBlob(0);
    request.source = repository.Open("alice");
    absl::Notification ended;
    const FlightTicket ticket =
        store->Ensure(request, Priority::kForeground, [&](absl::StatusOr<LayerRef> layer) {
          EXPECT_TRUE(layer.ok()) << layer.status();
          EXPECT_TRUE(store->kept_blobs()->Read(request.blob.digest).ok());
          ended.Notify();
        });
    ended.WaitForNotification();
    EXPECT_EQ(*Sha256OfFile(store->kept_blobs()->Read(request.blob.digest)->get()),
              request.blob.digest);
  }
  // Switched off, nothing stays.
  EXPECT_TRUE(std::filesystem::is_empty(root + "/blobs"));
  std::filesystem::remove_all(root);
}

}  // namespace
}  // namespace imagefs
