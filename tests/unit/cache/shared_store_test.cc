// SPDX-License-Identifier: Apache-2.0
#include "cache/shared_store.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "base/text.h"

namespace imagefs {
namespace {

class SharedStoreTest : public ::testing::Test {
 protected:
  SharedStoreTest() { std::filesystem::create_directories(top_); }
  ~SharedStoreTest() override { std::filesystem::remove_all(top_); }

  SharedStoreWriter Writer() {
    absl::StatusOr<SharedStoreWriter> writer = SharedStoreWriter::Open(root_);
    if (!writer.ok()) ADD_FAILURE() << writer.status();
    return *std::move(writer);
  }
  // A layer whose tar is that text; `moved` stands behind it in the data file.
  SharedLayer Layer(const std::string& tar, const std::string& moved = "") {
    SharedLayer layer;
    layer.diff_id = Sha256Of(tar);
    layer.tar_bytes = tar.size();
    layer.data_bytes = tar.size() + moved.size();
    layer.origins = {{Sha256Of("blob of " + tar), "registry.example", true}};
    std::ofstream(DataPath()) << tar << moved;
    return layer;
  }
  std::string DataPath() const { return top_ + "/data"; }
  absl::StatusOr<uint64_t> Put(SharedStoreWriter& writer, const SharedLayer& layer) {
    absl::StatusOr<Fd> data = OpenFile(DataPath(), O_RDONLY);
    if (!data.ok()) return data.status();
    return writer.PutLayer(layer, *data, CancelToken());
  }
  static ResolvedImage Image(const std::string& reference, const std::string& platform,
                             const std::vector<Digest>& diff_ids) {
    const Platform of = *Platform::Parse(platform);
    std::string layers, ids;
    for (const Digest& id : diff_ids) {
      StrAppend(&layers, layers.empty() ? "" : ",",
                R"({"mediaType":"application/vnd.oci.image.layer.v1.tar","size":9,"digest":")",
                Sha256Of(id.hex()).ToString(), "\"}");
      StrAppend(&ids, ids.empty() ? "\"" : ",\"", id.ToString(), "\"");
    }
    const std::string config =
        StrCat(R"({"os":")", of.os, R"(","architecture":")", of.architecture, R"(","variant":")",
               of.variant, R"(","rootfs":{"type":"layers","diff_ids":[)", ids, "]}}");
    const std::string manifest = StrCat(
        R"({"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json",)",
        R"("digest":")", Sha256Of(config).ToString(), R"(","size":)", config.size(),
        R"(},"layers":[)", layers, "]}");
    absl::StatusOr<ResolvedImage> image =
        MakeResolvedImage(reference, Digest(), manifest,
                          "application/vnd.oci.image.manifest.v1+json", config, Platform());
    if (!image.ok()) ADD_FAILURE() << image.status();
    return *std::move(image);
  }

  const std::string top_ = StrCat(::testing::TempDir(), "/shared-", RandomHex(8));
  const std::string root_ = top_ + "/store";
  const Reference reference_ = *Reference::Parse("registry.example/app:1");
};

TEST_F(SharedStoreTest, ALayerIsThereOnceAndWhole) {
  const SharedLayer layer = Layer("the tar", "moved");
  {
    SharedStoreWriter writer = Writer();
    absl::StatusOr<uint64_t> added = Put(writer, layer);
    ASSERT_TRUE(added.ok()) << added.status();
    EXPECT_EQ(*added, 12U);
    added = Put(writer, layer);
    ASSERT_TRUE(added.ok()) << added.status();
    EXPECT_EQ(*added, 0U);
  }
  const SharedStores stores({top_ + "/none", root_});
  const absl::StatusOr<SharedLayer> found = stores.FindLayer(layer.diff_id);
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(found->tar_bytes, 7U);
  EXPECT_EQ(found->data_bytes, 12U);
  ASSERT_EQ(found->origins.size(), 1U);
  EXPECT_EQ(found->origins[0].registry, "registry.example");
  EXPECT_FALSE(found->origins[0].open);  // not on the exporter's word
  EXPECT_TRUE(OpenSharedData(*found).ok());
  EXPECT_TRUE(absl::IsNotFound(stores.FindLayer(Sha256Of("other")).status()));
}

TEST_F(SharedStoreTest, WrongBytesAreNotAdded) {
  SharedLayer layer = Layer("the tar");
  std::ofstream(DataPath()) << "the car";
  SharedStoreWriter writer = Writer();
  EXPECT_TRUE(absl::IsDataLoss(Put(writer, layer).status()));
  EXPECT_TRUE(absl::IsNotFound(SharedStores({root_}).FindLayer(layer.diff_id).status()));
  for (const auto& entry : std::filesystem::directory_iterator(root_ + "/layers")) {
    ADD_FAILURE() << "left: " << entry.path();
  }
}

TEST_F(SharedStoreTest, AnotherOriginIsAdded) {
  SharedLayer layer = Layer("the tar");
  SharedStoreWriter writer = Writer();
  ASSERT_TRUE(Put(writer, layer).ok());
  layer.origins[0].registry = "other.example";
  ASSERT_TRUE(Put(writer, layer).ok());
  ASSERT_TRUE(Put(writer, layer).ok());
  EXPECT_EQ(SharedStores({root_}).FindLayer(layer.diff_id)->origins.size(), 2U);
}

TEST_F(SharedStoreTest, OnlyPlainFilesOfTheRightSizeAreOpened) {
  const SharedLayer layer = Layer("the tar");
  SharedStoreWriter writer = Writer();
  ASSERT_TRUE(Put(writer, layer).ok());
  const SharedLayer found = *SharedStores({root_}).FindLayer(layer.diff_id);
  const auto refused = [&] { return !OpenSharedData(found).ok(); };
  EXPECT_FALSE(refused());
  std::ofstream(found.data) << "a longer tar";
  EXPECT_TRUE(refused());
  ASSERT_EQ(unlink(found.data.c_str()), 0);
  EXPECT_TRUE(refused());
  ASSERT_EQ(mkfifo(found.data.c_str(), 0644), 0);
  EXPECT_TRUE(refused());
  ASSERT_EQ(unlink(found.data.c_str()), 0);
  ASSERT_EQ(symlink(DataPath().c_str(), found.data.c_str()), 0);
  EXPECT_TRUE(refused());
}

TEST_F(SharedStoreTest, ImagesByReferenceAndPlatform) {
  const SharedLayer layer = Layer("the tar");
  SharedStoreWriter writer = Writer();
  ASSERT_TRUE(Put(writer, layer).ok());
  for (const char* platform : {"linux/amd64", "linux/arm/v7", "linux/arm/v6"}) {
    const absl::Status put =
        writer.PutImage(Image(reference_.ToString(), platform, {layer.diff_id}));
    ASSERT_TRUE(put.ok()) << put;
  }
  const SharedStores stores({root_});
  EXPECT_EQ(stores.List().size(), 3U);
  const auto variant = [&](const char* platform) -> std::string {
    const absl::StatusOr<ImageRef> found = stores.FindImage(reference_, *Platform::Parse(platform));
    return found.ok() ? (*found)->config.platform.ToString()
                      : std::string(absl::StatusCodeToString(found.status().code()));
  };
  EXPECT_EQ(variant("linux/amd64"), "linux/amd64");
  EXPECT_EQ(variant("linux/arm/v6"), "linux/arm/v6");
  EXPECT_EQ(variant("linux/arm/v7"), "linux/arm/v7");
  EXPECT_EQ(variant("linux/s390x"), "NOT_FOUND");
  EXPECT_TRUE(absl::IsNotFound(
      stores.FindImage(*Reference::Parse("registry.example/app:2"), Platform::Host()).status()));
}

TEST_F(SharedStoreTest, DamagedRecordsAreNoImages) {
  const SharedLayer layer = Layer("the tar");
  SharedStoreWriter writer = Writer();
  ASSERT_TRUE(Put(writer, layer).ok());
  ASSERT_TRUE(writer.PutImage(Image(reference_.ToString(), "linux/amd64", {layer.diff_id})).ok());
  for (const auto& file : std::filesystem::directory_iterator(root_ + "/documents")) {
    std::ofstream(file.path(), std::ios::app) << " ";
    break;  // one of the two is enough
  }
  const SharedStores stores({root_});
  EXPECT_TRUE(stores.List().empty());
  // Put again, they are right again.
  ASSERT_TRUE(writer.PutImage(Image(reference_.ToString(), "linux/amd64", {layer.diff_id})).ok());
  EXPECT_EQ(stores.List().size(), 1U);
}

TEST_F(SharedStoreTest, OneWriterAtATimeAndOnlyOfAStore) {
  {
    SharedStoreWriter writer = Writer();
    EXPECT_TRUE(absl::IsUnavailable(SharedStoreWriter::Open(root_).status()));
  }
  EXPECT_TRUE(SharedStoreWriter::Open(root_).ok());
  EXPECT_TRUE(CheckSharedStore(root_).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(CheckSharedStore(top_)));
  EXPECT_TRUE(absl::IsFailedPrecondition(SharedStoreWriter::Check(top_)));
  EXPECT_TRUE(absl::IsFailedPrecondition(SharedStoreWriter::Open(top_).status()));
  std::ofstream(root_ + "/imagefs-store.json") << R"({"format": 2})";
  EXPECT_TRUE(absl::IsFailedPrecondition(SharedStoreWriter::Open(root_).status()));
}

TEST_F(SharedStoreTest, WhatAKilledExportLeftGoes) {
  { SharedStoreWriter writer = Writer(); }
  std::filesystem::create_directories(root_ + "/layers/tmp-0123");
  std::ofstream(root_ + "/tmp-0123") << "half";
  SharedStoreWriter writer = Writer();
  EXPECT_FALSE(std::filesystem::exists(root_ + "/layers/tmp-0123"));
  EXPECT_FALSE(std::filesystem::exists(root_ + "/tmp-0123"));
}

TEST_F(SharedStoreTest, EverybodyCanReadIt) {
  const mode_t before = umask(077);
  const SharedLayer layer = Layer("the tar");
  SharedStoreWriter writer = Writer();
  ASSERT_TRUE(Put(writer, layer).ok());
  ASSERT_TRUE(writer.PutImage(Image(reference_.ToString(), "linux/amd64", {layer.diff_id})).ok());
  umask(before);
  for (const auto& entry : std::filesystem::recursive_directory_iterator(root_)) {
    if (entry.path().filename() == "lock") continue;
    struct stat st;
    ASSERT_EQ(stat(entry.path().c_str(), &st), 0);
    EXPECT_EQ(st.st_mode & 0777, S_ISDIR(st.st_mode) ? 0755U : 0644U) << entry.path();
  }
}

}  // namespace
}  // namespace imagefs
