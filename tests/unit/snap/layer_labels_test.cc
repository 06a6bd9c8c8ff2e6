// SPDX-License-Identifier: Apache-2.0
#include "snap/layer_labels.h"

#include <gtest/gtest.h>

#include "base/text.h"

namespace imagefs {
namespace {

TEST(LayerLabelsTest, BothFamilies) {
  const std::string digest = Sha256Of("m").ToString();
  auto labels = ParseLayerLabels({{kRefLabel, "sha256:aa"},
                                  {"containerd.io/snapshot/cri.image-ref",
                                   "docker.io/library/app@" + Sha256Of("i").ToString()},
                                  {"containerd.io/snapshot/cri.manifest-digest", digest}});
  ASSERT_TRUE(labels.ok() && labels->has_value());
  EXPECT_EQ((*labels)->chain_id, "sha256:aa");
  EXPECT_EQ((*labels)->reference.ToString(), "docker.io/library/app@" + digest)
      << "of the index and of the manifest in it, the layers belong to the latter";
  EXPECT_EQ((*labels)->listed_by, Sha256Of("i").ToString());
  labels = ParseLayerLabels({{kRefLabel, "sha256:aa"},
                             {"containerd.io/snapshot/remote/stargz.reference", "host.io/app:2"}});
  ASSERT_TRUE(labels.ok() && labels->has_value());
  EXPECT_EQ((*labels)->reference.ToString(), "host.io/app:2");
  EXPECT_FALSE((*labels)->manifest.has_value());
  EXPECT_EQ((*labels)->listed_by, "");
}

TEST(LayerLabelsTest, WithoutAnImageTheLayerIsUnpacked) {
  EXPECT_FALSE(ParseLayerLabels({})->has_value());
  EXPECT_FALSE(ParseLayerLabels({{kRefLabel, "sha256:aa"}})->has_value());
  EXPECT_FALSE(
      ParseLayerLabels({{"containerd.io/snapshot/cri.image-ref", "docker.io/library/app:1"}})
          ->has_value());
}

TEST(LayerLabelsTest, HostileOnesAreRefused) {
  for (const char* reference : {"", "oci:/etc:1", "host.io/UPPER:1", "a b", "host/app@sha256:12"}) {
    const auto labels =
        ParseLayerLabels({{kRefLabel, "x"}, {"containerd.io/snapshot/cri.image-ref", reference}});
    EXPECT_TRUE(!labels.ok() || !labels->has_value()) << reference;
  }
  EXPECT_FALSE(ParseLayerLabels({{kRefLabel, "x"},
                                 {"containerd.io/snapshot/cri.image-ref", "host.io/app:1"},
                                 {"containerd.io/snapshot/cri.manifest-digest", "sha256:../.."}})
                   .ok());
}

}  // namespace
}  // namespace imagefs
