// SPDX-License-Identifier: Apache-2.0
// An image whose layers are files of the test, and a registry to publish their indexes to.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/synchronization/notification.h"
#include "base/directory.h"
#include "base/fd.h"
#include "base/text.h"
#include "cmd/publish.h"
#include "image/span_table.h"
#include "tests/fakes/fetch/fake_registry.h"
#include "tests/fakes/fs/fake_store.h"

namespace imagefs {

class PublishTest : public ::testing::Test {
 protected:
  PublishTest() : directory_(StrCat(::testing::TempDir(), "/publish-", RandomHex(8))) {
    image_ = std::make_shared<ResolvedImage>(store_.image());
    server_.SetFeatures({.referrers = true});
    SourceFactory::Options options;
    options.first_backoff = std::chrono::milliseconds(1);
    sources_ = *SourceFactory::Create(options);
    publications_ =
        std::make_unique<Publications>(Publications::Deps{store_, *sources_, executor_});
    UseLayers({true, true});
  }
  ~PublishTest() override {
    publications_.reset();
    EXPECT_TRUE(RemoveTree(directory_).ok());
  }
  // The image's layers, of which some can be read in parts.
  void UseLayers(const std::vector<bool>& in_parts) {
    auto chain = std::make_shared<Chain>();
    for (size_t i = 0; i < in_parts.size(); ++i) {
      auto layer = std::make_shared<Layer>();
      layer->id = layer->diff_id = image_->config.diff_ids[i];
      layer->directory = StrCat(directory_, "/", i);
      EXPECT_TRUE(MakeDirs(layer->directory).ok());
      EXPECT_TRUE(WriteFileDurably(layer->directory + "/index", StrCat("index ", i)).ok());
      (void)unlink((layer->directory + "/access").c_str());
      if (in_parts[i]) {
        SpanTable table;
        table.blob_size = 1000;
        table.diff_id = layer->diff_id;
        table.tar_bytes = table.data_bytes = 1024;
        EXPECT_TRUE(WriteFileDurably(layer->directory + "/access", *WriteSpanTable(table)).ok());
      }
      chain->layers.push_back(std::move(layer));
    }
    chain->chain_id = image_->chain_id();
    store_.UseChain(std::move(chain));
  }
  PublishRequest ToFile() const {
    PublishRequest request;
    request.image = image_;
    request.file = directory_ + "/index.tar";
    return request;
  }
  PublishRequest ToRegistry() const {
    PublishRequest request;
    request.image = image_;
    request.to = *Reference::Parse(StrCat(server_.host(), "/img:1"));
    return request;
  }
  absl::StatusOr<PublishResult> Publish(PublishRequest request) {
    absl::Notification ended;
    absl::StatusOr<PublishResult> result;
    publications_->Start(std::move(request), CancelToken(),
                         [&](absl::StatusOr<PublishResult> done) {
                           result = std::move(done);
                           ended.Notify();
                         });
    ended.WaitForNotification();
    return result;
  }
  std::string TagPath() const {
    return StrCat("/v2/img/manifests/sha256-", image_->manifest_digest.hex(), ".imagefs");
  }

  const std::string directory_;
  FakeRegistry server_;
  FakeImageStore store_{2};
  ImageRef image_;
  std::unique_ptr<SourceFactory> sources_;
  Executor executor_{ThreadRole::kTest, 2};
  std::unique_ptr<Publications> publications_;
};

}  // namespace imagefs
