// SPDX-License-Identifier: Apache-2.0
#include "snap/content_keeper.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <string>

#include "absl/synchronization/mutex.h"
#include "base/log.h"
#include "base/text.h"
#include "tests/fakes/base/eventually.h"

namespace imagefs {
namespace {

using Labels = ContentStore::Labels;

// What a runtime has, in memory. Shares content between namespaces as containerd does.
struct FakeContent {
  absl::Mutex mu;
  std::map<std::string, std::map<Digest, Labels>> spaces;
  std::map<Digest, std::string> bytes;
  absl::Status failure;
  int calls = 0;

  bool Has(const std::string& name_space, const Digest& blob) {
    absl::MutexLock lock(&mu);
    return spaces[name_space].contains(blob);
  }
};

class FakeContentStore : public ContentStore {
 public:
  explicit FakeContentStore(FakeContent& content) : content_(content) {}
  absl::StatusOr<std::vector<std::string>> Namespaces() override {
    absl::MutexLock lock(&content_.mu);
    ++content_.calls;
    if (!content_.failure.ok()) return content_.failure;
    std::vector<std::string> out;
    for (const auto& [name, blobs] : content_.spaces) out.push_back(name);
    return out;
  }
  absl::StatusOr<absl::flat_hash_map<Digest, Labels>> List(const std::string& name) override {
    absl::MutexLock lock(&content_.mu);
    const auto& blobs = content_.spaces[name];
    return absl::flat_hash_map<Digest, Labels>(blobs.begin(), blobs.end());
  }
  absl::Status Write(const std::string& name, const Blob& blob, const Fd* file) override {
    absl::MutexLock lock(&content_.mu);
    if (!content_.bytes.contains(blob.digest)) {
      if (file == nullptr) return absl::NotFoundError("not shared");
      std::string text(blob.size + 1, '\0');
      text.resize(*PreadFull(file->get(), absl::MakeSpan(text), 0));
      if (Sha256Of(text) != blob.digest) return absl::FailedPreconditionError("wrong digest");
      content_.bytes[blob.digest] = text;
    }
    content_.spaces[name][blob.digest] = blob.labels;
    return absl::OkStatus();
  }

 private:
  FakeContent& content_;
};

// Sends one blob.
class OneBlobSource : public ImageSource {
 public:
  explicit OneBlobSource(std::string bytes) : bytes_(std::move(bytes)) {}
  std::string auth_scope() const override { return "scope"; }
  std::string registry() const override { return "registry.test"; }
  void GetManifest(const std::string&, CancelToken, ManifestDone done) override {
    done(absl::UnimplementedError(""));
  }
  void GetSmallBlob(const Descriptor&, uint64_t, CancelToken, SmallBlobDone done) override {
    done(absl::UnimplementedError(""));
  }
  void HasBlob(const Descriptor&, CancelToken, HasBlobDone done) override { done(true); }
  void ReadBlob(const Descriptor&, std::vector<ByteRange> ranges, ReadOptions, CancelToken,
                BlobSink sink, BlobDone done) override {
    absl::Status status;
    for (const ByteRange& range : ranges) {
      status.Update(sink(range.begin, std::string_view(bytes_).substr(range.begin, range.size())));
    }
    done(status);
  }

 private:
  const std::string bytes_;
};

class ContentKeeperTest : public ::testing::Test {
 protected:
  ContentKeeperTest() : dir_(StrCat(::testing::TempDir(), "/content-", RandomHex(8))) {
    SetLogLevel(LogLevel::kOff);
    std::filesystem::create_directories(dir_);
    FillScheduler::Options options;
    options.quiet = absl::ZeroDuration();
    scheduler_ = std::make_unique<FillScheduler>(options);
    blobs_ = KeptBlobs::Open({dir_, "aaaaaaaa", 1 << 20, 0}, *scheduler_);
    auto image = std::make_shared<ResolvedImage>();
    image->reference = "registry.test/team/app:1";
    image->manifest_digest = Sha256Of("manifest");
    image->config.diff_ids.resize(2);
    for (int i = 0; i < 2; ++i) {
      Descriptor layer;
      layer.digest = Sha256Of(kBytes[i]);
      layer.size = kBytes[i].size();
      image->manifest.layers.push_back(layer);
    }
    image_ = image;
    options_.settle = absl::ZeroDuration();
    options_.interval = absl::Milliseconds(5);
    options_.first_pause = options_.longest_pause = absl::Milliseconds(20);
  }
  ~ContentKeeperTest() override {
    keeper_.reset();
    scheduler_.reset();
    std::filesystem::remove_all(dir_);
  }
  void Start() {
    keeper_ = std::make_unique<ContentKeeper>(
        options_,
        ContentKeeper::Deps{
            *blobs_,
            [this]() -> absl::StatusOr<std::vector<ImageRef>> {
              return held_ ? std::vector<ImageRef>{image_} : std::vector<ImageRef>();
            },
            [this](const LayerKey&) { return state_.load(); },
            [this](const Reference&) -> absl::StatusOr<std::shared_ptr<ImageSource>> {
              ++opened_;
              return std::make_shared<OneBlobSource>(sent_);
            },
            [this](const CancelToken&) { return std::make_unique<FakeContentStore>(content_); }});
  }
  void Offer(int layer) {
    const std::string path = dir_ + "/download";
    std::ofstream(path) << kBytes[layer];
    blobs_->Offer(Sha256Of(kBytes[layer]), path);
    std::filesystem::remove(path);
  }
  // The manifest, as containerd stores it.
  void Pull(const std::string& name_space, int layers = 2) {
    Labels labels;
    for (int i = 0; i < layers; ++i) {
      labels[StrCat("containerd.io/gc.ref.content.l.", i)] = Sha256Of(kBytes[i]).ToString();
    }
    absl::MutexLock lock(&content_.mu);
    content_.spaces[name_space][image_->manifest_digest] = labels;
  }
  bool Has(const std::string& name_space, int layer) {
    return content_.Has(name_space, Sha256Of(kBytes[layer]));
  }
  uint64_t Counter(std::string_view name) const {
    for (const auto& [key, value] : keeper_->Counters()) {
      if (key == name) return value;
    }
    return UINT64_MAX;
  }
  // A comparison that began after this call has ended.
  void AwaitTurn() {
    int calls;
    {
      absl::MutexLock lock(&content_.mu);
      calls = content_.calls;
    }
    EXPECT_TRUE(Eventually([&] {
      absl::MutexLock lock(&content_.mu);
      return content_.calls >= calls + 2;
    }));
  }

  const std::string kBytes[2] = {"the lower layer", "the upper layer"};
  const std::string dir_;
  FakeContent content_;
  std::unique_ptr<FillScheduler> scheduler_;
  std::shared_ptr<KeptBlobs> blobs_;
  ImageRef image_;
  std::atomic<LayerState> state_{LayerState::kFilling};
  std::atomic<bool> held_{true};
  std::atomic<int> opened_{0};
  std::string sent_;
  ContentKeeper::Options options_;
  std::unique_ptr<ContentKeeper> keeper_;
};

TEST_F(ContentKeeperTest, WritesWhatIsKeptToTheNamespaceOfTheImageAndDropsIt) {
  Pull("k8s.io");
  {
    absl::MutexLock lock(&content_.mu);
    content_.spaces["other"];
  }
  Start();
  Offer(1);
  ASSERT_TRUE(Eventually([&] { return Has("k8s.io", 1); }));
  EXPECT_TRUE(Eventually([&] { return blobs_->List().empty(); }));
  EXPECT_FALSE(Has("other", 1));
  EXPECT_FALSE(Has("k8s.io", 0)) << "it is still filling";
  EXPECT_EQ(opened_, 0);
  EXPECT_EQ(Counter("content_blobs_written"), 1U);
  EXPECT_TRUE(Eventually([&] { return Counter("content_blobs_missing") == 1; }));
  absl::MutexLock lock(&content_.mu);
  EXPECT_EQ(content_.spaces["k8s.io"][Sha256Of(kBytes[1])],
            (Labels{{"containerd.io/distribution.source.registry.test", "team/app"}}));
}

TEST_F(ContentKeeperTest, ASecondNamespaceSharesWhatTheFirstHas) {
  Pull("one", 1);
  Start();
  Offer(0);
  ASSERT_TRUE(Eventually([&] { return Has("one", 0); }));
  Pull("two", 1);
  EXPECT_TRUE(Eventually([&] { return Has("two", 0); }));
  EXPECT_EQ(opened_, 0);
}

TEST_F(ContentKeeperTest, WhatNoManifestRefersToIsNotWritten) {
  Pull("default", 1);  // as with discard_unpacked_layers
  options_.unneeded = absl::ZeroDuration();
  state_ = LayerState::kComplete;
  sent_ = kBytes[0];
  Start();
  Offer(1);
  EXPECT_TRUE(Eventually([&] { return blobs_->List().empty() && Has("default", 0); }));
  EXPECT_FALSE(Has("default", 1));
}

TEST_F(ContentKeeperTest, ABlobIsKeptAsLongAsThePullOfItsImageLasts) {
  held_ = false;
  options_.unneeded = absl::ZeroDuration();
  Pull("default", 1);
  Start();
  Offer(0);
  AwaitTurn();
  EXPECT_EQ(blobs_->List().size(), 1U);
  EXPECT_FALSE(Has("default", 0));
  held_ = true;
  EXPECT_TRUE(Eventually([&] { return Has("default", 0); }));
  EXPECT_EQ(opened_, 0);
}

TEST_F(ContentKeeperTest, TheBlobOfALocalLayerIsFetchedAgain) {
  Pull("default", 1);
  state_ = LayerState::kComplete;
  sent_ = kBytes[0];
  Start();
  ASSERT_TRUE(Eventually([&] { return Has("default", 0); }));
  EXPECT_EQ(opened_, 1);
  AwaitTurn();
  EXPECT_EQ(opened_, 1);
  EXPECT_TRUE(blobs_->List().empty());
}

TEST_F(ContentKeeperTest, AFetchThatFailsIsCountedAndDoesNotHoldUpOthers) {
  Pull("default");
  state_ = LayerState::kComplete;
  sent_ = std::string(kBytes[0].size(), 'x');
  options_.first_pause = options_.longest_pause = absl::Hours(1);
  Start();
  ASSERT_TRUE(Eventually([&] { return Counter("content_blobs_failed") > 0; }));
  Offer(1);
  EXPECT_TRUE(Eventually([&] { return Has("default", 1); }));
  EXPECT_FALSE(Has("default", 0));
}

TEST_F(ContentKeeperTest, GoesOnWhenTheRuntimeAnswersAgain) {
  Pull("default", 1);
  content_.failure = absl::UnavailableError("nobody listens");
  Start();
  Offer(0);
  AwaitTurn();
  EXPECT_EQ(blobs_->List().size(), 1U);
  {
    absl::MutexLock lock(&content_.mu);
    content_.failure = absl::OkStatus();
  }
  EXPECT_TRUE(Eventually([&] { return Has("default", 0); }));
}

TEST_F(ContentKeeperTest, AFileThatWentWrongIsDroppedAndFetched) {
  Pull("default", 1);
  const std::string path = dir_ + "/download";
  std::ofstream(path) << "something else!";
  blobs_->Offer(Sha256Of(kBytes[0]), path);
  state_ = LayerState::kComplete;
  sent_ = kBytes[0];
  Start();
  EXPECT_TRUE(Eventually([&] { return Has("default", 0); }));
  EXPECT_EQ(Counter("content_blobs_failed"), 1U);
}

}  // namespace
}  // namespace imagefs
