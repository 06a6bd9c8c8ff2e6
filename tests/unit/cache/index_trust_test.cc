// SPDX-License-Identifier: Apache-2.0
#include "cache/index_trust.h"

#include <gtest/gtest.h>

#include <string>

namespace imagefs {
namespace {

bool IsAny(const std::string& pattern, const std::string& reference) {
  EXPECT_TRUE(LazyPolicy::CheckPattern(pattern).ok()) << pattern;
  const LazyPolicy policy(IndexTrust::Trusted(), {pattern});
  const IndexTrust trust = policy.For(*Reference::Parse(reference));
  EXPECT_TRUE(trust == IndexTrust::Any() || trust == IndexTrust::Trusted());
  return trust == IndexTrust::Any();
}

TEST(LazyPolicy, WithoutPatternsAllAreTheSame) {
  const LazyPolicy policy(IndexTrust::Repository());
  EXPECT_EQ(policy.For(*Reference::Parse("debian")), IndexTrust::Repository());
  EXPECT_EQ(LazyPolicy().For(*Reference::Parse("debian")), IndexTrust::Trusted());
}

TEST(LazyPolicy, TwoStarsGoAcrossComponents) {
  EXPECT_TRUE(IsAny("registry.example/**", "registry.example/a:1"));
  EXPECT_TRUE(IsAny("registry.example/**", "registry.example/a/b/c:1"));
  EXPECT_TRUE(IsAny("registry.example/**/tools", "registry.example/a/b/tools"));
  EXPECT_FALSE(IsAny("registry.example/**", "registry.example.evil.test/a"));
  EXPECT_FALSE(IsAny("registry.example/**", "evil.test/registry.example/a"));
  EXPECT_FALSE(IsAny("registry.example/**", "registry.example:5000/a"));
  EXPECT_TRUE(IsAny("**", "anything.test/at/all"));
}

TEST(LazyPolicy, OneStarStaysInItsComponent) {
  EXPECT_TRUE(IsAny("registry.example/*", "registry.example/a"));
  EXPECT_FALSE(IsAny("registry.example/*", "registry.example/a/b"));
  EXPECT_TRUE(IsAny("registry.example/*/app", "registry.example/team/app"));
  EXPECT_FALSE(IsAny("registry.example/*/app", "registry.example/a/b/app"));
  EXPECT_TRUE(IsAny("*.example/app-*", "registry.example/app-one"));
  EXPECT_FALSE(IsAny("*.example/app", "evil.test/x.example/app"));
}

TEST(LazyPolicy, NamesAreTheCanonicalOnes) {
  EXPECT_TRUE(IsAny("docker.io/library/*", "debian:12"));
  EXPECT_FALSE(IsAny("docker.io/*", "debian:12"));
  EXPECT_TRUE(IsAny("127.0.0.1:5000/**", "127.0.0.1:5000/x@sha256:" + std::string(64, 'a')));
  EXPECT_FALSE(IsAny("**", "oci:/some/layout"));  // OCI layouts are never lazy
}

TEST(LazyPolicy, PatternsThatMatchNothingAreErrors) {
  for (const char* pattern :
       {"", "debian", "registry.example", "registry.example/a@sha256:b", "registry.example/a:1",
        "registry.example/A", "registry.example/ a", "*", "registry.example/a?"}) {
    EXPECT_FALSE(LazyPolicy::CheckPattern(pattern).ok()) << pattern;
  }
  EXPECT_TRUE(LazyPolicy::CheckPattern("[::1]:5000/**").ok());
}

// A pattern with many stars must not keep the daemon busy.
TEST(LazyPolicy, ManyStarsAreCheap) {
  std::string pattern = "registry.example/";
  for (int i = 0; i < 100; ++i) pattern += "*a";
  EXPECT_FALSE(IsAny(pattern, "registry.example/" + std::string(200, 'a') + "b"));
}

TEST(LazyPolicy, WhatIsNeverTrustedIsSoForAll) {
  const LazyPolicy policy =
      LazyPolicy(IndexTrust::Repository(), {"any.test/**"}).Never(IndexSource::kUnverified);
  EXPECT_EQ(policy.For(*Reference::Parse("debian")),
            IndexTrust::Repository().Without(IndexSource::kUnverified));
  EXPECT_EQ(policy.For(*Reference::Parse("any.test/a")),
            IndexTrust::Any().Without(IndexSource::kUnverified));
}

TEST(IndexTrust, Sets) {
  EXPECT_TRUE(IndexTrust::None().empty());
  EXPECT_FALSE(IndexTrust::Trusted().Allows(IndexSource::kBeside));
  EXPECT_FALSE(IndexTrust::Trusted().Allows(IndexSource::kInImage));
  EXPECT_FALSE(IndexTrust::Repository().Allows(IndexSource::kInImage));
  EXPECT_FALSE(IndexTrust::Configured().Allows(IndexSource::kBeside));
  for (const IndexTrust trust : {IndexTrust::Trusted(), IndexTrust::Repository(),
                                 IndexTrust::Configured(), IndexTrust::Any()}) {
    EXPECT_TRUE(trust.Allows(IndexSource::kSigned));
    EXPECT_TRUE(trust.Allows(IndexSource::kConfigured));
  }
}

}  // namespace
}  // namespace imagefs
