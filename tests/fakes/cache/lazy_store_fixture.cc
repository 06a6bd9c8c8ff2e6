// SPDX-License-Identifier: Apache-2.0
#include "tests/fakes/cache/lazy_store_fixture.h"

#include <algorithm>

#include "absl/synchronization/notification.h"
#include "base/fd.h"
#include "fetch/registry_writer.h"
#include "image/span_table.h"
#include "tests/fakes/cache/lazy_blob.h"
#include "tests/fakes/image/old_bundle.h"

namespace imagefs {

LazyStoreTest::LazyStoreTest() : sources_(repository_) {
  for (uint32_t i = 0; i < 2; ++i) {
    tars_.push_back(
        TarOf({{StrCat("file", i), MixedBytes(1 << 20, i)}, {StrCat("small", i), "hello"}}));
  }
  manifest_ = repository_.AddImage("latest", tars_);
  blobs_ = {repository_.LayerBlob(0), repository_.LayerBlob(1)};
  options_.index.min_bytes = 0;
  options_.fill.background = false;
  options_.fill.guess = false;  // requests what is read, and nothing else
}

void LazyStoreTest::CompressLayers() {
  std::vector<FakeRepository::LayerSpec> layers;
  for (const std::string& tar : tars_) {
    layers.push_back({GzipBytes(tar), Sha256Of(tar), /*gzip=*/true});
  }
  manifest_ = repository_.AddImage("latest", layers);
  blobs_ = {repository_.LayerBlob(0), repository_.LayerBlob(1)};
}

void LazyStoreTest::Reopen() {
  chain_.reset();
  store_.reset();
  options_.root = roots_.back();
  auto store = ImageStore::Open(options_, sources_);
  ASSERT_TRUE(store.ok()) << store.status();
  store_ = *std::move(store);
}

absl::Status LazyStoreTest::Show(IndexTrust trust, std::string_view reference) {
  absl::Notification ended;
  absl::Status status;
  ResolveRequest request;
  request.reference = *Reference::Parse(reference);
  request.platform = Platform::Host();
  request.trust = trust;
  store_->Resolve(request, [&](absl::StatusOr<ImageStore::Resolved> resolved) {
    if (!resolved.ok()) {
      status = resolved.status();
      return ended.Notify();
    }
    image_ = resolved->image;
    source_ = resolved->source;
    store_->EnsureChain(image_, source_, trust, Priority::kForeground,
                        [&](absl::StatusOr<ChainRef> chain) {
                          status = chain.status();
                          if (chain.ok()) chain_ = *std::move(chain);
                          ended.Notify();
                        });
  });
  ended.WaitForNotification();
  return status;
}

absl::Status LazyStoreTest::Read(size_t layer, ByteRange range) {
  absl::Notification ended;
  absl::StatusOr<ReadPin> pin;
  chain_->layers[layer]->keeper()->Ensure(range, 0, CancelToken(),
                                          [&](absl::StatusOr<ReadPin> got) {
                                            pin = std::move(got);
                                            ended.Notify();
                                          });
  ended.WaitForNotification();
  if (!pin.ok()) return pin.status();
  std::string bytes(range.size(), '\0');
  EXPECT_TRUE(
      PreadFull(chain_->layers[layer]->data.get(), absl::MakeSpan(bytes), range.begin).ok());
  for (const ReadPin::Memory& part : pin->memory) {
    for (size_t i = 0; i < part.bytes->size(); ++i) {
      const uint64_t at = part.begin + i;
      if (at >= range.begin && at < range.end) bytes[at - range.begin] = (*part.bytes)[i];
    }
  }
  return bytes == tars_[layer].substr(range.begin, range.size())
             ? absl::OkStatus()
             : absl::InternalError("wrong bytes were served");
}

absl::Status LazyStoreTest::ReadAny(size_t layer, size_t at) {
  at %= tars_[layer].size() - 50'000;
  if (chain_->layers[layer]->keeper() != nullptr) return Read(layer, {at, at + 50'000});
  std::string bytes(50'000, '\0');
  IMAGEFS_RETURN_IF_ERROR(
      PreadFull(chain_->layers[layer]->data.get(), absl::MakeSpan(bytes), at).status());
  return bytes == tars_[layer].substr(at, bytes.size())
             ? absl::OkStatus()
             : absl::InternalError("wrong bytes were served");
}

absl::Status LazyStoreTest::Durable() {
  absl::Notification ended;
  absl::Status status;
  store_->WaitDurable(chain_, [&](absl::Status s) {
    status = std::move(s);
    ended.Notify();
  });
  ended.WaitForNotification();
  return status;
}

void LazyStoreTest::ReopenBeforeWindowsCome(IndexTrust trust) {
  for (const Descriptor& windows : windows_) repository_.HoldAt(windows.digest, 0);
  ASSERT_TRUE(Show(trust).ok());
  const Digest chain_id = chain_->chain_id;
  Reopen();
  auto chain = store_->FindChain(chain_id);
  ASSERT_TRUE(chain.ok()) << chain.status();
  chain_ = *chain;
  store_->AttachSource(chain_, *Reference::Parse("registry.test/img:latest"), {});
  for (const Descriptor& windows : windows_) repository_.Release(windows.digest);
}

void LazyStoreTest::MakeIndexes() {
  absl::Notification ended;
  store_->MakeIndexes(image_, source_, [&](absl::StatusOr<ChainRef> chain) {
    EXPECT_TRUE(chain.ok()) << chain.status();
    ended.Notify();
  });
  ended.WaitForNotification();
}

void LazyStoreTest::Publish(const std::function<void(size_t, IndexBundle&)>& lie,
                            const std::string& profile, const PackedHotPack& pack) {
  OpenNew();
  ASSERT_TRUE(Show(IndexTrust::None()).ok());
  MakeIndexes();
  RegistryWriter::Artifact artifact;
  artifact.artifact_type = std::string(kIndexArtifactType);
  artifact.subject.media_type = image_->manifest.media_type;
  artifact.subject.digest = manifest_;
  artifact.subject.size = image_->manifest_json.size();
  auto add = [&](const std::string& bytes, std::string_view media_type,
                 std::map<std::string, std::string> annotations) {
    RegistryWriter::Layer layer;
    layer.media_type = std::string(media_type);
    layer.annotations = std::move(annotations);
    const Descriptor blob = repository_.AddBlob(bytes);
    layer.blob.digest = blob.digest;
    layer.blob.size = blob.size;
    artifact.layers.push_back(std::move(layer));
  };
  for (size_t i = 0; i < published_layers_; ++i) {
    const std::string directory = chain_->layers[i]->directory;
    IndexBundle bundle = {*ReadFile(directory + "/index", 1 << 30),
                          *ReadFile(directory + "/access", 1 << 30)};
    if (lie) lie(i, bundle);
    const std::map<std::string, std::string> annotations = {
        {std::string(kLayerAnnotation), blobs_[i].digest.ToString()}};
    if (old_form_) {
      add(PackOldBundle(bundle), kOldLayerIndexMediaType, annotations);
      continue;
    }
    const PackedBundle packed = *PackBundle(bundle);
    add(packed.index, kLayerIndexMediaType, annotations);
    bundles_.push_back(Sha256Of(packed.index));
    if (packed.windows.empty()) continue;
    windows_.resize(2);
    windows_[i].digest = Sha256Of(packed.windows);
    windows_[i].size = packed.windows.size();
    if (!without_windows_) add(packed.windows, kLayerWindowsMediaType, annotations);
  }
  if (!profile.empty()) add(profile, kProfileMediaType, {});
  if (!pack.bytes.empty()) {
    add(pack.bytes, kHotPackMediaType,
        {{std::string(kPackHeaderAnnotation),
          Sha256Of(pack.bytes.substr(0, pack.header_bytes)).ToString()},
         {std::string(kPackHeaderBytesAnnotation), StrCat(pack.header_bytes)}});
  }
  repository_.AddManifest(StrCat("sha256-", manifest_.hex(), ".imagefs"),
                          ArtifactManifest(artifact));
}

PackedHotPack LazyStoreTest::Pack(bool lies) const {
  const std::vector<HotPack::Layer> layers = {{Sha256Of(tars_[0]), tars_[0].size()},
                                              {Sha256Of(tars_[1]), tars_[1].size()}};
  return *PackHotPages(layers, {{0, {400'000, 500'000}}, {1, {100'000, 200'000}}}, UINT64_MAX,
                       [&](uint32_t layer, uint64_t offset, absl::Span<char> out) {
                         tars_[layer].copy(out.data(), out.size(), offset);
                         if (lies && layer == 1) out[0] ^= 1;
                         return absl::OkStatus();
                       });
}

uint64_t LazyStoreTest::Counter(std::string_view name) const {
  for (const auto& [key, value] : store_->Counters()) {
    if (key == name) return value;
  }
  ADD_FAILURE() << "no counter " << name;
  return 0;
}

}  // namespace imagefs
