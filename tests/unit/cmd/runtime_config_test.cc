// SPDX-License-Identifier: Apache-2.0
#include "cmd/runtime_config.h"

#include <string>

#include "base/json.h"
#include "gtest/gtest.h"

namespace imagefs {
namespace {

constexpr char kImage[] = R"({"os": "linux", "architecture": "amd64", "author": "me",
  "config": {"StopSignal": "SIGQUIT", "ExposedPorts": {"80/tcp": {}, "81/udp": {}},
             "Labels": {"a": "b", "org.opencontainers.image.author": "label"}}})";

Json Config(const RuntimeOptions& options) {
  RunSpec spec;
  spec.programs = {"/bin/prog"};
  spec.arguments = {"x", "\"y\""};
  spec.environment = {"A=1"};
  spec.directory = "/srv";
  const auto text = RuntimeConfig(kImage, spec, UserIds{3, 4, {5, 6}, "/home/x"}, options);
  EXPECT_TRUE(text.ok());
  return *Json::Parse(*text);
}

TEST(RuntimeConfigTest, SaysWhatIsRunAndHow) {
  const Json config = Config({});
  const Json process = config["process"];
  EXPECT_EQ(process["args"].Dump(), R"(["/bin/prog","x","\"y\""])");
  EXPECT_EQ(process["env"].Dump(), R"(["A=1","HOME=/home/x"])");
  EXPECT_EQ(process.StringOr("cwd"), "/srv");
  EXPECT_EQ(process["user"].Dump(), R"({"uid":3,"gid":4,"additionalGids":[5,6]})");
  EXPECT_EQ(config["root"].Dump(), R"({"path":"rootfs","readonly":false})");
  EXPECT_FALSE(config["linux"]["uidMappings"].exists());
}

TEST(RuntimeConfigTest, LabelsComeAfterTheImplicitAnnotations) {
  const Json annotations = Config({})["annotations"];
  EXPECT_EQ(annotations.StringOr("a"), "b");
  EXPECT_EQ(annotations.StringOr("org.opencontainers.image.author"), "label");
  EXPECT_EQ(annotations.StringOr("org.opencontainers.image.stopSignal"), "SIGQUIT");
  EXPECT_EQ(annotations.StringOr("org.opencontainers.image.exposedPorts"), "80/tcp,81/udp");
  EXPECT_EQ(annotations.StringOr("org.opencontainers.image.os"), "linux");
}

TEST(RuntimeConfigTest, WithoutRootTheCallerIsRoot) {
  const Json linux_part =
      Config({.read_only = true, .rootless = true, .uid = 1000, .gid = 100})["linux"];
  EXPECT_EQ(linux_part["uidMappings"].Dump(), R"([{"containerID":0,"hostID":1000,"size":1}])");
  EXPECT_EQ(linux_part["gidMappings"].Dump(), R"([{"containerID":0,"hostID":100,"size":1}])");
  EXPECT_NE(linux_part["namespaces"].Dump().find("user"), std::string::npos);
}

}  // namespace
}  // namespace imagefs
