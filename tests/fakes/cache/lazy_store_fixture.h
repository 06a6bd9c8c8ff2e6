// SPDX-License-Identifier: Apache-2.0
// A store over a fake repository that has one image of two layers, which are shown before their
// bytes are there: by the index that a first machine publishes, or by what the blobs say.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/text.h"
#include "cache/image_store.h"
#include "image/hot_pack.h"
#include "image/index_bundle.h"
#include "tests/fakes/base/eventually.h"
#include "tests/fakes/cache/fake_source.h"

namespace imagefs {

class LazyStoreTest : public ::testing::Test {
 protected:
  LazyStoreTest();
  ~LazyStoreTest() override {
    chain_.reset();
    store_.reset();
    for (const std::string& root : roots_) std::filesystem::remove_all(root);
  }

  // So that spans have windows.
  void CompressLayers();
  void OpenNew() {
    roots_.push_back(StrCat(::testing::TempDir(), "/lazy-", RandomHex(8)));
    Reopen();
  }
  void Reopen();

  absl::Status Show(IndexTrust trust, std::string_view reference = "registry.test/img:latest");

  absl::Status Read(size_t layer, ByteRange range);
  // Whatever is present of the layer.
  absl::Status ReadAny(size_t layer, size_t at);
  absl::Status Durable();

  // Shows the image, and ends the process before the windows of its layers have come to it.
  void ReopenBeforeWindowsCome(IndexTrust trust);

  void MakeIndexes();
  // Publishes what a first machine makes, falsified by `lie`.
  void Publish(const std::function<void(size_t, IndexBundle&)>& lie = {},
               const std::string& profile = "", const PackedHotPack& pack = {});
  // A pack of a part of each layer; of the second one, a byte is wrong.
  PackedHotPack Pack(bool lies = false) const;
  bool PackCame() {
    return Eventually([&] { return Counter("hot_pack_bytes") >= 200'000; });
  }
  size_t BlobReads() const {
    return repository_.Reads(blobs_[0].digest).size() + repository_.Reads(blobs_[1].digest).size();
  }
  uint64_t Counter(std::string_view name) const;
  LayerState StateOf(size_t layer) const {
    return store_->StateOf({Sha256Of(tars_[layer]), blobs_[layer].digest});
  }

  FakeRepository repository_;
  FakeSourceFactory sources_;
  std::vector<std::string> tars_;
  Digest manifest_;
  std::vector<Descriptor> blobs_;
  bool old_form_ = false, without_windows_ = false;  // of what is published
  size_t published_layers_ = 2;
  std::vector<Digest> bundles_;      // that are published
  std::vector<Descriptor> windows_;  // that are published in a blob of their own
  ImageStore::Options options_;
  std::vector<std::string> roots_;
  std::unique_ptr<ImageStore> store_;
  ImageRef image_;
  std::shared_ptr<ImageSource> source_;
  ChainRef chain_;
};

}  // namespace imagefs
