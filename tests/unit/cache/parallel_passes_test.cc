// SPDX-License-Identifier: Apache-2.0
// Layers that are made as a whole by the span table of a published index: ImageStore with one large
// layer.
#include "cache/parallel_passes.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <functional>
#include <string>

#include "absl/synchronization/notification.h"
#include "base/fd.h"
#include "base/text.h"
#include "cache/image_store.h"
#include "fetch/registry_writer.h"
#include "image/index_bundle.h"
#include "tests/fakes/base/eventually.h"
#include "tests/fakes/cache/fake_source.h"
#include "tests/fakes/cache/lazy_blob.h"

namespace imagefs {
namespace {

class ParallelPassesTest : public testing::Test {
 protected:
  ParallelPassesTest() : sources_(repository_) {
    options_.index.min_bytes = 0;
    options_.fill.background = false;
    options_.parallel = {.least_processors = 4, .least_bytes = 100'000, .processors = 4};
    Use(GzipBytes(tar_));
  }
  ~ParallelPassesTest() override {
    chain_.reset();
    store_.reset();
    std::filesystem::remove_all(root_);
    std::filesystem::remove_all(scratch_);
  }

  void Use(std::string blob) {
    blob_bytes_ = std::move(blob);
    manifest_ = repository_.AddImage("latest", {{blob_bytes_, Sha256Of(tar_), /*gzip=*/true}});
    blob_ = repository_.LayerBlob(0);
    table_ = MakeTable(tar_, blob_bytes_, 30'000);
  }

  // The index of the layer, as a pass over it gives it.
  std::string Index() {
    std::filesystem::remove_all(scratch_);
    EXPECT_TRUE(MakeDirs(scratch_, 0700).ok());
    auto read = [this](absl::Span<char> buffer, uint64_t offset) -> absl::StatusOr<size_t> {
      return blob_bytes_.copy(buffer.data(), buffer.size(), offset);
    };
    std::atomic<uint64_t> unpacked{0};
    const LayerInput input{blob_.digest, blob_.size, Sha256Of(tar_), read};
    EXPECT_TRUE(MakeLayer(input, scratch_, CancelToken(), unpacked).ok());
    return *ReadFile(scratch_ + "/index", 1 << 20);
  }
  // Publishes the index with that table.
  void Publish(const SpanTable& table) {
    const PackedBundle packed = *PackBundle({Index(), *WriteSpanTable(table)});
    RegistryWriter::Artifact artifact;
    artifact.artifact_type = std::string(kIndexArtifactType);
    artifact.subject.media_type = "application/vnd.oci.image.manifest.v1+json";
    artifact.subject.digest = manifest_;
    artifact.subject.size = 1;
    for (const auto& [bytes, type] : {std::pair(packed.index, kLayerIndexMediaType),
                                      std::pair(packed.windows, kLayerWindowsMediaType)}) {
      RegistryWriter::Layer layer;
      layer.media_type = std::string(type);
      layer.annotations = {{std::string(kLayerAnnotation), blob_.digest.ToString()}};
      windows_ = repository_.AddBlob(bytes);
      layer.blob.digest = windows_.digest;
      layer.blob.size = windows_.size;
      artifact.layers.push_back(std::move(layer));
    }
    repository_.AddManifest(StrCat("sha256-", manifest_.hex(), ".imagefs"),
                            ArtifactManifest(artifact));
  }

  void Open() {
    chain_.reset();
    store_.reset();
    std::filesystem::remove_all(root_);
    options_.root = root_;
    auto store = ImageStore::Open(options_, sources_);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }
  // Starts to make the image as a whole; `ended_` is notified.
  FlightTicket Begin(IndexTrust trust = IndexTrust::None()) {
    absl::Notification resolved;
    ResolveRequest request;
    request.reference = *Reference::Parse("registry.test/img:latest");
    request.platform = Platform::Host();
    store_->Resolve(request, [&](absl::StatusOr<ImageStore::Resolved> got) {
      EXPECT_TRUE(got.ok()) << got.status();
      image_ = *std::move(got);
      resolved.Notify();
    });
    resolved.WaitForNotification();
    ended_ = std::make_unique<absl::Notification>();
    return store_->EnsureChain(image_.image, image_.source, trust, Priority::kForeground,
                               [this](absl::StatusOr<ChainRef> chain) {
                                 status_ = chain.status();
                                 if (chain.ok()) chain_ = *std::move(chain);
                                 ended_->Notify();
                               });
  }
  absl::Status Pull(IndexTrust trust = IndexTrust::None()) {
    Open();
    const FlightTicket ticket = Begin(trust);
    ended_->WaitForNotification();
    return status_;
  }
  // The layer is proven, and has the right bytes.
  bool IsRight() {
    const LayerRef& layer = chain_->layers[0];
    std::string data(tar_.size(), '\0');
    return layer->proven() && layer->complete() &&
           PreadExact(layer->data.get(), absl::MakeSpan(data), 0, "data").ok() && data == tar_;
  }
  uint64_t Counter(std::string_view name) const {
    for (const auto& [key, value] : store_->Counters()) {
      if (key == name) return value;
    }
    ADD_FAILURE() << "no counter " << name;
    return 0;
  }
  uint64_t BytesRead() const {
    uint64_t bytes = 0;
    for (const ByteRange& range : repository_.Reads(blob_.digest)) bytes += range.size();
    return bytes;
  }
  // Whether an index was looked for.
  bool Asked() const {
    const std::vector<std::string> asked = repository_.manifests_asked();
    return std::any_of(asked.begin(), asked.end(),
                       [](const std::string& name) { return name.ends_with(".imagefs"); });
  }

  const std::string tar_ = TarOf({{"a", MixedBytes(900'000, 1)}, {"b", MixedBytes(400'000, 2)}});
  const std::string root_ = StrCat(testing::TempDir(), "/parallel-", RandomHex(8));
  const std::string scratch_ = root_ + "-scratch";
  FakeRepository repository_;
  FakeSourceFactory sources_;
  std::string blob_bytes_;
  Descriptor blob_, windows_;
  Digest manifest_;
  SpanTable table_;
  ImageStore::Options options_;
  std::unique_ptr<ImageStore> store_;
  ImageStore::Resolved image_;
  std::unique_ptr<absl::Notification> ended_;
  absl::Status status_;
  ChainRef chain_;
};

TEST_F(ParallelPassesTest, ALargeLayerIsMadeByItsTable) {
  Publish(table_);
  ASSERT_EQ(Pull(), absl::OkStatus());
  EXPECT_TRUE(IsRight());
  EXPECT_EQ(Counter("layers_parallel"), 1U);
  EXPECT_EQ(Counter("layers_built"), 1U);
  EXPECT_EQ(Counter("layers_lazy"), 0U);
  EXPECT_EQ(Counter("layers_table_useless"), 0U);
  EXPECT_EQ(BytesRead(), blob_.size);
  // The points of the table are those of the blob: it gives a table of our own.
  absl::Notification made;
  store_->MakeIndexes(image_.image, image_.source, [&](absl::StatusOr<ChainRef> chain) {
    EXPECT_TRUE(chain.ok()) << chain.status();
    made.Notify();
  });
  made.WaitForNotification();
  const auto own = SpanTableReader::Open(chain_->layers[0]->directory + "/access");
  ASSERT_TRUE(own.ok()) << own.status();
  EXPECT_EQ((*own)->bytes(), *WriteSpanTable(table_));
  EXPECT_EQ(BytesRead(), blob_.size);
}

TEST_F(ParallelPassesTest, AnIndexThatNobodyVouchesForIsAHintOnly) {
  options_.hash_behind = 1;  // otherwise the layer would be given before it is proven
  Publish(table_);
  ASSERT_EQ(Pull(IndexTrust::Trusted()), absl::OkStatus());
  EXPECT_TRUE(IsRight());
  EXPECT_EQ(Counter("layers_parallel"), 1U);
  EXPECT_EQ(Counter("layers_lazy"), 0U);
  // Where it is trusted, the layer is lazy.
  ASSERT_EQ(Pull(IndexTrust::Repository()), absl::OkStatus());
  EXPECT_EQ(Counter("layers_lazy"), 1U);
  EXPECT_EQ(Counter("layers_parallel"), 0U);
}

TEST_F(ParallelPassesTest, NobodyIsAskedWhereItWouldNotPay) {
  Publish(table_);
  options_.parallel.processors = 3;
  ASSERT_EQ(Pull(), absl::OkStatus());
  options_.parallel = {.least_processors = 0, .least_bytes = 0, .processors = 64};
  ASSERT_EQ(Pull(), absl::OkStatus());
  options_.parallel = {.least_processors = 4, .least_bytes = blob_.size + 1, .processors = 64};
  ASSERT_EQ(Pull(), absl::OkStatus());
  EXPECT_FALSE(Asked());
  EXPECT_TRUE(IsRight());
  EXPECT_EQ(Counter("layers_parallel"), 0U);
  options_.parallel.least_bytes = blob_.size;
  ASSERT_EQ(Pull(), absl::OkStatus());
  EXPECT_TRUE(Asked());
}

TEST_F(ParallelPassesTest, WithoutAnIndexItIsMadeByOneThread) {
  ASSERT_EQ(Pull(), absl::OkStatus());
  EXPECT_TRUE(IsRight());
  EXPECT_TRUE(Asked());
  EXPECT_EQ(Counter("layers_parallel"), 0U);
}

TEST_F(ParallelPassesTest, AFalseTableCostsAPassAndIsNotBelievedAgain) {
  const std::function<void(SpanTable&)> lies[] = {
      // Windows of other spans, and windows that are none.
      [](SpanTable& table) {
        std::swap(table.spans[2].window_offset, table.spans[3].window_offset);
        std::swap(table.spans[2].window_bytes, table.spans[3].window_bytes);
      },
      [](SpanTable& table) { table.windows.assign(table.windows.size(), 'x'); },
      // Spans that give other bytes.
      [](SpanTable& table) {
        table.spans[2].data_bytes += 5000;
        table.spans[3].data_begin += 5000;
        table.spans[3].data_bytes -= 5000;
      },
      // A place that is none of a block.
      [](SpanTable& table) { table.spans[4].bit = (table.spans[4].bit + 3) % 8; },
  };
  for (const auto& lie : lies) {
    SpanTable table = table_;
    lie(table);
    Publish(table);
    const uint64_t read = BytesRead();
    ASSERT_EQ(Pull(), absl::OkStatus());
    EXPECT_TRUE(IsRight());
    EXPECT_EQ(Counter("layers_parallel"), 0U);
    EXPECT_EQ(Counter("layers_table_useless"), 1U);
    EXPECT_EQ(Counter("layers_refetched"), 0U);
    EXPECT_EQ(BytesRead() - read, blob_.size);  // once
    // Once more in the same store.
    chain_.reset();
    ASSERT_TRUE(store_->Remove(*Reference::Parse("registry.test/img:latest")).ok());
    // Whoever makes its span table may hold it for a moment.
    ASSERT_TRUE(Eventually([&] {
      (void)store_->Prune({.all = true});
      return store_->ListLayers().empty();
    }));
    const FlightTicket ticket = Begin();
    ended_->WaitForNotification();
    ASSERT_EQ(status_, absl::OkStatus());
    EXPECT_TRUE(IsRight());
    EXPECT_EQ(Counter("layers_built"), 2U);
    EXPECT_EQ(Counter("layers_table_useless"), 1U);
  }
}

TEST_F(ParallelPassesTest, ATableOfAnotherBlobIsNotUsed) {
  const SpanTable other = table_;
  Use(GzipBytes(tar_, 9));
  ASSERT_NE(other.blob_digest, table_.blob_digest);
  Publish(other);
  ASSERT_EQ(Pull(), absl::OkStatus());
  EXPECT_TRUE(IsRight());
  EXPECT_EQ(Counter("indexes_refused"), 1U);
  EXPECT_EQ(Counter("layers_parallel"), 0U);
}

TEST_F(ParallelPassesTest, WindowsThatDoNotComeCostAPass) {
  Publish(table_);
  repository_.FailAt(windows_.digest, 10, absl::NotFoundError("gone"), 100);
  ASSERT_EQ(Pull(), absl::OkStatus());
  EXPECT_TRUE(IsRight());
  EXPECT_EQ(Counter("layers_parallel"), 0U);
  EXPECT_EQ(Counter("layers_table_useless"), 1U);
}

TEST_F(ParallelPassesTest, AWrongBlobIsNotTheTablesFault) {
  Publish(table_);
  Open();
  repository_.CorruptAt(blob_.digest, blob_.size / 2, 1);
  const FlightTicket ticket = Begin();
  ended_->WaitForNotification();
  ASSERT_EQ(status_, absl::OkStatus());
  EXPECT_TRUE(IsRight());
  EXPECT_EQ(Counter("layers_table_useless"), 0U);
}

TEST_F(ParallelPassesTest, IsCancelledWhileItWaitsForTheBlobOrItsWindows) {
  Publish(table_);
  for (const Descriptor& blob : {blob_, windows_}) {
    Open();
    repository_.HoldAt(blob.digest, blob.size / 2);
    const FlightTicket ticket = Begin();
    repository_.AwaitHeld(blob.digest);
    ticket.Leave();
    ended_->WaitForNotification();
    EXPECT_TRUE(absl::IsCancelled(status_)) << status_;
    store_.reset();  // returns: nothing waits any more
    repository_.Release(blob.digest);
  }
}

}  // namespace
}  // namespace imagefs
