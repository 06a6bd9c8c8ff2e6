// SPDX-License-Identifier: Apache-2.0
#include "fetch/kubelet_config.h"

#include <gtest/gtest.h>

#include <string>

namespace imagefs {
namespace {

constexpr char kHead[] = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";

absl::StatusOr<KubeletDiskLimits> Parsed(const std::string& more) {
  return ParseKubeletDiskLimits(kHead + more, "config.yaml");
}

TEST(KubeletConfig, DefaultsOfTheKubelet) {
  const auto limits = Parsed("");
  ASSERT_TRUE(limits.ok()) << limits.status();
  EXPECT_EQ(limits->high_percent, 85U);
  EXPECT_EQ(limits->evict_free_percent, 15U);
  EXPECT_EQ(limits->least_free_percent(), 15U);
}

TEST(KubeletConfig, WhatIsSetCounts) {
  const auto limits =
      Parsed("imageGCHighThresholdPercent: 70\nevictionHard:\n  imagefs.available: \"10%\"\n");
  ASSERT_TRUE(limits.ok()) << limits.status();
  EXPECT_EQ(limits->high_percent, 70U);
  EXPECT_EQ(limits->evict_free_percent, 10U);
  EXPECT_EQ(limits->least_free_percent(), 30U);
  EXPECT_EQ(Parsed("evictionHard: {imagefs.available: \"25.5%\"}\n")->least_free_percent(), 25U);
}

TEST(KubeletConfig, OtherSignalsAndBytesAreNoPercentage) {
  EXPECT_EQ(Parsed("evictionHard: {memory.available: 100Mi}\n")->evict_free_percent, 0U);
  EXPECT_EQ(Parsed("evictionHard: {imagefs.available: 5Gi}\n")->evict_free_percent, 0U);
}

TEST(KubeletConfig, WhatIsNoConfigurationIsAnErrorThatNamesTheFile) {
  for (const std::string& text :
       {std::string("kind: Pod\n"), std::string("- a\n"), std::string(), std::string("a: [\n"),
        kHead + std::string("imageGCHighThresholdPercent: many\n")}) {
    const auto limits = ParseKubeletDiskLimits(text, "config.yaml");
    ASSERT_FALSE(limits.ok()) << text;
    EXPECT_NE(limits.status().message().find("config.yaml"), std::string::npos);
  }
}

}  // namespace
}  // namespace imagefs
