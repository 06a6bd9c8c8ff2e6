// SPDX-License-Identifier: Apache-2.0
#include "cmd/list_filter.h"

#include "gtest/gtest.h"
#include "image/reference.h"
#include "proto/control.pb.h"

namespace imagefs {
namespace {

using control::v1::Image;
using control::v1::ListImagesReply;
using control::v1::ListMountsReply;

const std::string kHex = "c478db8dcc670123456789abcdef0123456789abcdef0123456789abcdef0123";

ListImagesReply Images() {
  ListImagesReply reply;
  const auto add = [&reply](const char* reference, const std::string& digest, bool pinned,
                            bool used, const char* state) {
    Image* image = reply.add_images();
    image->set_reference(reference);
    image->set_manifest_digest("sha256:" + digest);
    image->set_pinned(pinned);
    image->set_state(state);
    image->set_platform("linux/amd64");
    if (used) image->add_used_by()->set_kind("mount");
  };
  add("docker.io/library/alpine:3", kHex, true, false, "complete");
  add("docker.io/library/alpine:edge", std::string(64, 'a'), false, true, "filling");
  add("docker.io/library/alpine-git:3", std::string(64, 'b'), false, false, "complete");
  add("registry.example:5000/team/app:1", std::string(64, 'c'), false, true, "complete");
  return reply;
}

std::string Names(const ListImagesReply& reply) {
  std::string out;
  for (const Image& image : reply.images()) {
    out += (out.empty() ? "" : " ") + image.reference().substr(image.reference().rfind('/') + 1);
  }
  return out;
}

std::string Filtered(const std::vector<std::string>& filters) {
  for (const std::string& filter : filters) {
    EXPECT_EQ(ListFilter::WhyNot(filter, ImageFilterKeys()), "");
  }
  ListImagesReply reply = Images();
  ListFilter(filters).Apply(&reply);
  return Names(reply);
}

std::string Named(const std::string& name) {
  ListImagesReply reply = Images();
  const absl::StatusOr<Reference> reference = Reference::Parse(name);
  KeepNamed(name, reference.ok() ? &*reference : nullptr, &reply);
  return Names(reply);
}

TEST(ListFilterTest, KeysAndValues) {
  EXPECT_EQ(Filtered({}), "alpine:3 alpine:edge alpine-git:3 app:1");
  EXPECT_EQ(Filtered({"reference=docker.io/*"}), "alpine:3 alpine:edge alpine-git:3");
  EXPECT_EQ(Filtered({"reference=alpine:*"}), "alpine:3 alpine:edge") << "as typed";
  EXPECT_EQ(Filtered({"state=complete", "used=true"}), "app:1") << "every key";
  EXPECT_EQ(Filtered({"state=filling", "state=compl*"}), "alpine:3 alpine:edge alpine-git:3 app:1")
      << "any value";
  EXPECT_EQ(Filtered({"pinned=true"}), "alpine:3");
  EXPECT_EQ(Filtered({"digest=c478db8dcc67"}), "alpine:3");
  EXPECT_EQ(Filtered({"platform=*arm64"}), "");
}

TEST(ListFilterTest, SaysWhatIsWrong) {
  EXPECT_NE(ListFilter::WhyNot("size=3", ImageFilterKeys()).find("reference, state"),
            std::string::npos);
  EXPECT_NE(ListFilter::WhyNot("reference", ImageFilterKeys()), "");
  EXPECT_NE(ListFilter::WhyNot("used=maybe", ImageFilterKeys()), "");
  EXPECT_NE(ListFilter::WhyNot("used=true", MountFilterKeys()), "");
  EXPECT_EQ(ListFilter::WhyNot("reference=", ImageFilterKeys()), "");
}

TEST(ListFilterTest, Mounts) {
  ListMountsReply reply;
  for (const char* directory : {"/srv/a", "/srv/b", "/mnt"}) {
    auto* mount = reply.add_mounts();
    mount->set_directory(directory);
    mount->set_mode(directory[1] == 's' ? "fuse" : "kernel");
  }
  ListMountsReply some = reply;
  ListFilter({"directory=/srv/*", "mode=fuse"}).Apply(&some);
  EXPECT_EQ(some.mounts_size(), 2);
  ListFilter({"mode=kernel"}).Apply(&reply);
  ASSERT_EQ(reply.mounts_size(), 1);
  EXPECT_EQ(reply.mounts(0).directory(), "/mnt");
}

TEST(KeepNamedTest, NamesOfAllKinds) {
  EXPECT_EQ(Named("alpine:3"), "alpine:3");
  EXPECT_EQ(Named("docker.io/library/alpine:edge"), "alpine:edge");
  EXPECT_EQ(Named("alpine"), "alpine:3 alpine:edge") << "all tags, and no longer name";
  EXPECT_EQ(Named("registry.example:5000/team/app"), "app:1") << "a port is no tag";
  EXPECT_EQ(Named("registry.example:5000/*"), "app:1");
  EXPECT_EQ(Named("c478db8dcc67"), "alpine:3");
  EXPECT_EQ(Named("sha256:c478db8dcc67"), "alpine:3");
  EXPECT_EQ(Named("sha256:" + kHex), "alpine:3");
  EXPECT_EQ(Named("c478db8dcc6"), "") << "too short for a digest";
  EXPECT_EQ(Named("alpine:4"), "");
}

TEST(DigestNameTest, Shape) {
  EXPECT_TRUE(IsDigestName("0123456789ab"));
  EXPECT_FALSE(IsDigestName("0123456789aB"));
  EXPECT_FALSE(IsDigestName(kHex + "0"));
  EXPECT_FALSE(IsDigestName("sha256:"));
  EXPECT_FALSE(DigestMatches("sha512:" + kHex, "c478db8dcc67"));
}

}  // namespace
}  // namespace imagefs
