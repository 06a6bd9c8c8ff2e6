// SPDX-License-Identifier: Apache-2.0
#include "snap/podman_layer_store.h"

#include <gtest/gtest.h>

#include "base/digest.h"
#include "base/json.h"

namespace imagefs {
namespace {

TEST(PodmanLayerInfoTest, WhatPodmanReads) {
  Descriptor blob;
  blob.media_type = "application/vnd.oci.image.layer.v1.tar+gzip";
  blob.digest = Sha256Of("blob");
  blob.size = 4711;
  auto info = [&] {
    const absl::StatusOr<Json> json = Json::Parse(PodmanLayerInfo(blob, Sha256Of("tar"), 10240));
    EXPECT_TRUE(json.ok());
    return *json;
  };
  EXPECT_EQ(info().StringOr("compressed-diff-digest"), blob.digest.ToString());
  EXPECT_EQ(info().IntOr("compressed-size", -1), 4711);
  EXPECT_EQ(info().StringOr("diff-digest"), Sha256Of("tar").ToString());
  EXPECT_EQ(info().IntOr("diff-size", -1), 10240);
  EXPECT_EQ(info().IntOr("compression", -1), 2);
  blob.media_type = "application/vnd.oci.image.layer.v1.tar+zstd";
  EXPECT_EQ(info().IntOr("compression", -1), 4);
  blob.media_type = "application/vnd.oci.image.layer.v1.tar";
  EXPECT_EQ(info().IntOr("compression", -1), 0);
}

}  // namespace
}  // namespace imagefs
