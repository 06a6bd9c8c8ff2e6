// SPDX-License-Identifier: Apache-2.0
#include "image/reference.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace imagefs {
namespace {

using Transport = Reference::Transport;

const std::string kHex(64, 'a');
const std::string kDigest = "sha256:" + kHex;

Reference Good(const std::string& text) {
  absl::StatusOr<Reference> reference = Reference::Parse(text);
  EXPECT_TRUE(reference.ok()) << text << ": " << reference.status();
  return reference.ok() ? *reference : Reference();
}

std::string Canonical(const std::string& text) { return Good(text).ToString(); }

std::string Error(const std::string& text) {
  absl::StatusOr<Reference> reference = Reference::Parse(text);
  EXPECT_FALSE(reference.ok()) << text << " became " << reference->ToString();
  if (reference.ok()) return "";
  EXPECT_EQ(reference.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(reference.status().message());
}

bool Contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(ReferenceTest, DefaultsAreDockers) {
  EXPECT_EQ(Canonical("alpine"), "docker.io/library/alpine:latest");
  EXPECT_EQ(Canonical("alpine:3"), "docker.io/library/alpine:3");
  EXPECT_EQ(Canonical("docker.io/alpine"), "docker.io/library/alpine:latest");
  EXPECT_EQ(Canonical("index.docker.io/alpine"), "docker.io/library/alpine:latest");
  EXPECT_EQ(Canonical("index.docker.io/library/alpine"), "docker.io/library/alpine:latest");
  EXPECT_EQ(Canonical("someone/thing"), "docker.io/someone/thing:latest");
  EXPECT_EQ(Canonical("a/b/c:t"), "docker.io/a/b/c:t");
  EXPECT_EQ(Canonical("docker://alpine"), "docker.io/library/alpine:latest");
  EXPECT_EQ(Canonical("docker://quay.io/x/y:z"), "quay.io/x/y:z");
}

TEST(ReferenceTest, FirstPartIsAHostWhenItLooksLikeOne) {
  EXPECT_EQ(Good("quay.io/x").host, "quay.io");
  EXPECT_EQ(Good("quay.io/x").repository, "x");
  EXPECT_EQ(Good("localhost/x").host, "localhost");
  EXPECT_EQ(Good("localhost:5000/x").host, "localhost:5000");
  EXPECT_EQ(Good("host:5000/x/y").host, "host:5000");
  EXPECT_EQ(Good("MyHost/x").host, "MyHost");
  EXPECT_EQ(Good("myhost/x").host, "docker.io");
  EXPECT_EQ(Good("myhost/x").repository, "myhost/x");
  EXPECT_EQ(Good("localhost").host, "docker.io");
  EXPECT_EQ(Good("docker.io").repository, "library/docker.io");
}

TEST(ReferenceTest, PortIsNoTag) {
  const Reference reference = Good("127.0.0.1:5000/demo");
  EXPECT_EQ(reference.host, "127.0.0.1:5000");
  EXPECT_EQ(reference.repository, "demo");
  EXPECT_EQ(reference.tag, "latest");
  EXPECT_EQ(Good("host:5000").ToString(), "docker.io/library/host:5000");
}

TEST(ReferenceTest, Ipv6Hosts) {
  EXPECT_EQ(Canonical("[::1]:5000/x:y"), "[::1]:5000/x:y");
  EXPECT_EQ(Good("[fd00::2]/x").host, "[fd00::2]");
  EXPECT_TRUE(Contains(Error("[::1/x"), "host"));
  EXPECT_TRUE(Contains(Error("[::g]:1/x"), "host"));
  EXPECT_TRUE(Contains(Error("[::1]5000/x"), "host"));
}

TEST(ReferenceTest, DigestsAndTags) {
  const Reference both = Good("quay.io/x:y@" + kDigest);
  EXPECT_EQ(both.tag, "y");
  ASSERT_TRUE(both.digest.has_value());
  EXPECT_EQ(both.TagOrDigest(), kDigest);
  EXPECT_EQ(both.ToString(), "quay.io/x:y@" + kDigest);

  const Reference digest = Good("alpine@" + kDigest);
  EXPECT_EQ(digest.tag, "") << "no default tag beside a digest";
  EXPECT_EQ(digest.ToString(), "docker.io/library/alpine@" + kDigest);

  EXPECT_EQ(Good("alpine:3").TagOrDigest(), "3");
}

TEST(ReferenceTest, CanonicalTextParsesToTheSame) {
  const std::vector<std::string> texts = {"alpine",
                                          "localhost/x",
                                          "[::1]:5000/a/b:c",
                                          "x.y/z@" + kDigest,
                                          "x.y/z:t@" + kDigest,
                                          "oci:/d:v1.0",
                                          "oci:/d",
                                          "oci:/d:@3",
                                          "oci-archive:f.tar",
                                          "docker-archive:f:a:b",
                                          "MyHost:1/a__b",
                                          "a/b.c/d-e---f"};
  for (const std::string& text : texts) {
    const Reference reference = Good(text);
    EXPECT_EQ(Good(reference.ToString()), reference) << text;
  }
}

TEST(ReferenceTest, RefusedNames) {
  EXPECT_TRUE(Contains(Error(""), "empty"));
  EXPECT_TRUE(Contains(Error("Alpine"), "lower case"));
  EXPECT_TRUE(Contains(Error("quay.io/Foo"), "lower case"));
  EXPECT_TRUE(Contains(Error(kHex), "image id"));
  EXPECT_TRUE(Contains(Error("https://quay.io/x"), "leave out \"https://\""));
  for (const char* text : {"a..b", "a___b", "a._b",     "-a",         "a-",
                           "_a",   "a_",    ".a",       "a.",         "a//b",
                           "/a",   "a/",    "quay.io/", "quay.io//x", "a b",
                           "a\tb", "a\nb",  "a%b",      "\xc3\xa4",   "quay.io/x/../y",
                           "../x", "..",    "@",        ":",          "a@",
                           "a/b@x"}) {
    EXPECT_NE(Error(text), "") << text;
  }
  EXPECT_EQ(Error(std::string("a\0b", 3)).find('\0'), std::string::npos);
}

TEST(ReferenceTest, NamesThatOnlyLookWrong) {
  for (const char* text : {"a__b", "a---b", "a.b", "0", "a/0-b/c_d", "quay.io/a-b.c_d__e"}) {
    Good(text);
  }
}

TEST(ReferenceTest, Limits) {
  EXPECT_EQ(Good("q.io/" + std::string(255, 'a')).repository.size(), 255u);
  EXPECT_TRUE(Contains(Error("q.io/" + std::string(256, 'a')), "255"));
  EXPECT_EQ(Good("a:" + std::string(128, 'x')).tag.size(), 128u);
  EXPECT_TRUE(Contains(Error("a:" + std::string(129, 'x')), "128"));
  EXPECT_LT(Error(std::string(100000, 'a')).size(), 2000u) << "the message quotes a part only";
}

TEST(ReferenceTest, RefusedTagsAndDigests) {
  for (const char* text : {"a:", "a:.b", "a:-b", "a:b:c", "a:b c", "a:b/c"}) {
    EXPECT_NE(Error(text), "") << text;
  }
  EXPECT_EQ(Good("a:_B.c-D").tag, "_B.c-D");
  EXPECT_NE(Error("a@sha256:" + std::string(63, 'a')), "");
  EXPECT_NE(Error("a@sha256:" + std::string(64, 'A')), "");
  EXPECT_NE(Error("a@sha512:" + std::string(128, 'a')), "");
  EXPECT_NE(Error("a@" + kDigest + "@" + kDigest), "");
  EXPECT_NE(Error("a:@" + kDigest), "");
}

TEST(ReferenceTest, RefusedHosts) {
  for (const char* text : {"a.b:/x", "a.b:0/x", "a.b:65536/x", "a.b:x/y", "a..b/x", "-a.b/x",
                           "a-.b/x", "a_b.c/x", ".b/x", "a.b:1:2/x", "user:pw@a.b/x"}) {
    EXPECT_NE(Error(text), "") << text;
  }
  EXPECT_TRUE(Contains(Error("a.b:65536/x"), "port"));
  EXPECT_EQ(Good("a.b:65535/x").host, "a.b:65535");
  EXPECT_NE(Error(std::string(300, 'a') + ".b/x"), "");
}

TEST(ReferenceTest, MessagesQuoteTheText) {
  EXPECT_EQ(Error("a:b c").find("invalid reference \"a:b c\": "), 0u);
  EXPECT_EQ(Error("a\nb").find("invalid reference \"a\\nb\": "), 0u);
}

TEST(ReferenceTest, ApiHost) {
  EXPECT_EQ(Good("alpine").ApiHost(), "registry-1.docker.io");
  EXPECT_EQ(Good("quay.io/x").ApiHost(), "quay.io");
  EXPECT_EQ(Good("[::1]:5000/x").ApiHost(), "[::1]:5000");
}

TEST(ReferenceTest, Loopback) {
  for (const char* host : {"localhost", "localhost:5000", "127.0.0.1", "127.0.0.1:5000",
                           "127.255.3.4:1", "[::1]", "[::1]:5000", "LOCALHOST:5000"}) {
    EXPECT_TRUE(Good(std::string(host) + "/x").IsLoopback()) << host;
    EXPECT_TRUE(IsLoopbackHost(host)) << host;
  }
  for (const char* host :
       {"128.0.0.1:1", "127.0.0.1.evil.com", "127.evil.com", "localhost.evil.com", "[::2]:1",
        "docker.io", "127.0.0.256", "127.0.1", "1270.0.0.1"}) {
    EXPECT_FALSE(Good(std::string(host) + "/x").IsLoopback()) << host;
    EXPECT_FALSE(IsLoopbackHost(host)) << host;
  }
  EXPECT_FALSE(Good("oci:localhost").IsLoopback());
}

TEST(ReferenceTest, LocalTransports) {
  const Reference layout = Good("oci:some/dir:v1");
  EXPECT_EQ(layout.transport, Transport::kOciLayout);
  EXPECT_EQ(layout.path, "some/dir");
  EXPECT_EQ(layout.tag, "v1");
  EXPECT_EQ(layout.host, "");

  EXPECT_EQ(Good("oci:/d").tag, "") << "no default tag";
  EXPECT_EQ(Good("oci:/d:@12").tag, "@12");
  EXPECT_EQ(Good("oci-archive:/a b.tar").path, "/a b.tar");
  EXPECT_EQ(Good("oci-archive:/a.tar:q.io/x:1").tag, "q.io/x:1");
  EXPECT_EQ(Good("docker-archive:/a.tar:alpine:3").transport, Transport::kDockerArchive);
  EXPECT_EQ(Good("docker-archive:/a.tar:alpine:3").tag, "alpine:3");
}

TEST(ReferenceTest, RefusedLocalReferences) {
  for (const char* text :
       {"oci:", "oci::tag", "oci-archive:", "docker-archive:", "oci:/d:", "oci:/d:@", "oci:/d:@x",
        "oci:/d:@99999", "oci:/d:a b", "oci:/d:/x", "oci:/d\n"}) {
    EXPECT_NE(Error(text), "") << text;
  }
}

TEST(ReferenceTest, MakeAbsolute) {
  const auto absolute = [](const std::string& text) {
    Reference reference = Good(text);
    reference.MakeAbsolute("/home/me");
    return reference.ToString();
  };
  EXPECT_EQ(absolute("oci:d:t"), "oci:/home/me/d:t");
  EXPECT_EQ(absolute("oci:./d//e/."), "oci:/home/me/d/e");
  EXPECT_EQ(absolute("oci:../d"), "oci:/home/me/../d") << "may lead through a symbolic link";
  EXPECT_EQ(absolute("oci:/d/"), "oci:/d");
  EXPECT_EQ(absolute("oci:."), "oci:/home/me");
  EXPECT_EQ(absolute("oci:/"), "oci:/");
  EXPECT_EQ(absolute("alpine"), "docker.io/library/alpine:latest");
}

}  // namespace
}  // namespace imagefs
