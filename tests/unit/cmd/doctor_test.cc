// SPDX-License-Identifier: Apache-2.0
#include "cmd/doctor.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "base/directory.h"
#include "base/fd.h"
#include "base/json.h"
#include "base/text.h"
#include "cmd/config.h"
#include "cmd/doctor_checks.h"
#include "cmd/print.h"

namespace imagefs {
namespace {

// A made-up machine.
class DoctorTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/doctor_test.XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    machine_.files = name;
    machine_.root = true;
    machine_.search_path = "/bin";
    paths_.root = "/var/lib/imagefs";
    paths_.run = "/run/imagefs";
  }
  void TearDown() override { EXPECT_TRUE(RemoveTree(machine_.files).ok()); }

  void Write(const std::string& path, const std::string& text, mode_t mode = 0644) {
    const std::string full = machine_.At(path);
    ASSERT_TRUE(MakeDirs(ParentOf(full)).ok());
    ASSERT_TRUE(WriteFileDurably(full, text, mode).ok());
    ASSERT_EQ(chmod(full.c_str(), mode), 0);
  }
  void Containerd(const std::string& config, std::string_view version = "1.6.20") {
    Write("/etc/containerd/config.toml", config);
    CheckContainerd(machine_, paths_, config_, version, report_);
  }
  void Podman(const std::string& config) {
    Write("/etc/containers/storage.conf", config);
    CheckPodman(machine_, paths_, config_, report_);
  }

  // Returns what was found with that result, one per line.
  std::string Found(Finding result) const {
    std::string out;
    for (const DoctorCheck& check : report_.checks()) {
      if (check.result == result) StrAppend(&out, check.name, ": ", check.found, "\n");
    }
    return out;
  }
  void ExpectAllRight() const {
    EXPECT_EQ(Found(Finding::kProblem), "");
    EXPECT_EQ(Found(Finding::kWarning), "");
    EXPECT_EQ(Found(Finding::kNote), "");
    EXPECT_NE(Found(Finding::kOk), "");
  }
  void ExpectOne(Finding result, std::string_view part) const {
    EXPECT_EQ(report_.Count(result), 1U) << Found(result);
    EXPECT_NE(Found(result).find(part), std::string::npos) << Found(result);
    for (const DoctorCheck& check : report_.checks()) {
      EXPECT_EQ(check.result == Finding::kOk, check.meaning.empty()) << check.found;
      EXPECT_EQ(check.result == Finding::kOk, check.remedy.empty()) << check.found;
    }
  }

  Machine machine_;
  Paths paths_;
  Config config_;
  DoctorReport report_;
};

constexpr char kProxyPlugin[] =
    "[proxy_plugins.imagefs]\ntype = \"snapshot\"\naddress = \"/run/imagefs/snapshotter.sock\"\n"
    "[proxy_plugins.imagefs.exports]\nroot = \"/var/lib/imagefs\"\n"
    "enable_remote_snapshot_annotations = \"true\"\n";
constexpr char kCri2[] =
    "[plugins.\"io.containerd.grpc.v1.cri\".containerd]\nsnapshotter = \"imagefs\"\n"
    "disable_snapshot_annotations = false\n";
constexpr char kCri3[] = "[plugins.\"io.containerd.cri.v1.images\"]\nsnapshotter = \"imagefs\"\n";
constexpr char kUnpack[] =
    "[[plugins.\"io.containerd.transfer.v1.local\".unpack_config]]\nplatform = \"linux\"\n"
    "snapshotter = \"imagefs\"\n";

TEST_F(DoctorTest, ContainerdAsTheDocumentSays) {
  Write("/run/imagefs/snapshotter.sock", "");
  Containerd(StrCat("version = 2\n", kCri2, kProxyPlugin));
  Containerd(StrCat("version = 3\n", kCri3, kUnpack, kProxyPlugin), "2.1.9");
  ExpectAllRight();
}

TEST_F(DoctorTest, ContainerdThatIsNotThereOrDoesNotUseImagefs) {
  CheckContainerd(machine_, paths_, config_, "", report_);
  EXPECT_NE(Found(Finding::kOk).find("not installed"), std::string::npos);
  CheckContainerd(machine_, paths_, config_, "1.6.20", report_);
  ExpectAllRight();
  Containerd("version = 2\n");
  ExpectOne(Finding::kNote, "no proxy plugin imagefs");
}

TEST_F(DoctorTest, ContainerdOfAnotherSocket) {
  Containerd(
      "version = 2\n[proxy_plugins.imagefs]\ntype = \"snapshot\"\naddress = \"/run/x\"\n"
      "[proxy_plugins.imagefs.exports]\nroot = \"/var/lib/imagefs\"\n");
  ExpectOne(Finding::kProblem, "has the address /run/x, not /run/imagefs/snapshotter.sock");
  ExpectOne(Finding::kNote, "its snapshotter is the default");
}

TEST_F(DoctorTest, ContainerdWithoutASocketOrWithAnotherRoot) {
  paths_.root = "/elsewhere";
  Containerd(StrCat("version = 2\n", kCri2, kProxyPlugin));
  EXPECT_EQ(report_.Count(Finding::kProblem), 0U);
  EXPECT_EQ(report_.Count(Finding::kWarning), 2U) << Found(Finding::kWarning);
  EXPECT_NE(Found(Finding::kWarning).find("there is no socket"), std::string::npos);
  EXPECT_NE(Found(Finding::kWarning).find("/var/lib/imagefs, not /elsewhere"), std::string::npos);
}

TEST_F(DoctorTest, ContainerdThatKeepsTheAnnotations) {
  Write("/run/imagefs/snapshotter.sock", "");
  Containerd(StrCat("version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd]\n"
                    "snapshotter = \"imagefs\"\n",
                    kProxyPlugin),
             "1.7.1");
  ExpectOne(Finding::kProblem, "disable_snapshot_annotations is not false");
}

TEST_F(DoctorTest, ContainerdTwoHasRulesOfItsOwn) {
  Write("/run/imagefs/snapshotter.sock", "");
  Containerd(StrCat("version = 3\n", kCri3, "disable_snapshot_annotations = false\n", kUnpack,
                    kProxyPlugin));
  ExpectOne(Finding::kWarning, "disable_snapshot_annotations is set");
  Containerd(StrCat("version = 3\n", kCri3, kProxyPlugin));
  ExpectOne(Finding::kProblem, "no unpack_config");
}

TEST_F(DoctorTest, ContainerdOfARuntimeClass) {
  Write("/run/imagefs/snapshotter.sock", "");
  Containerd(
      StrCat("version = 3\n[plugins.\"io.containerd.cri.v1.runtime\".containerd.runtimes."
             "lazy]\nsnapshotter = \"imagefs\"\n",
             kUnpack, kProxyPlugin));
  ExpectAllRight();
  EXPECT_NE(Found(Finding::kOk).find("the snapshotter of lazy"), std::string::npos);
}

TEST_F(DoctorTest, ContainerdReadsItsImports) {
  Write("/run/imagefs/snapshotter.sock", "");
  Write("/etc/containerd/conf.d/imagefs.toml", StrCat("version = 2\n", kCri2, kProxyPlugin));
  Containerd(
      StrCat("version = 2\nimports = [\"/etc/containerd/conf.d/*.toml\", \"none/*\"]\n",
             "[plugins.\"io.containerd.grpc.v1.cri\".containerd]\nsnapshotter = \"other\"\n"));
  ExpectAllRight();
  Write("/etc/containerd/conf.d/imagefs.toml", "version = \n");
  CheckContainerd(machine_, paths_, config_, "1.6.20", report_);
  ExpectOne(Finding::kProblem, "/etc/containerd/conf.d/imagefs.toml:1:");
}

TEST_F(DoctorTest, ContainerdWithOtherMirrors) {
  Write("/run/imagefs/snapshotter.sock", "");
  const std::string registry =
      "[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/etc/other:"
      "/etc/containerd/certs.d/\"\n[plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors.x]\n"
      "endpoint = [\"https://m\"]\n";
  Containerd(StrCat("version = 2\n", kCri2, kProxyPlugin, registry));
  EXPECT_EQ(report_.Count(Finding::kWarning), 2U) << Found(Finding::kWarning);
  EXPECT_NE(Found(Finding::kWarning).find("/etc/other, which imagefs"), std::string::npos);
  EXPECT_NE(Found(Finding::kWarning).find("registry.mirrors"), std::string::npos);
}

TEST_F(DoctorTest, ContainerdOfAnyContentIsNoCrash) {
  for (const char* text :
       {"version = \"x\"", "imports = 3", "imports = [1, \"/etc/containerd/config.toml\"]",
        "proxy_plugins = 1", "[proxy_plugins]\nimagefs = 2",
        "[proxy_plugins.imagefs]\ntype = 1\naddress = [1]\nexports = 1",
        "plugins = []\n[proxy_plugins.imagefs]\ntype = \"snapshot\""}) {
    Containerd(text);
  }
  EXPECT_FALSE(report_.checks().empty());
}

TEST_F(DoctorTest, PodmanThatNamesTheStore) {
  ASSERT_TRUE(MakeDirs(machine_.At("/var/lib/imagefs/podman")).ok());
  Podman(
      "[storage]\ndriver = \"overlay\"\n[storage.options]\n"
      "additionalimagestores = [\"/x\", \"/var/lib/imagefs/podman/\"]\n");
  ExpectAllRight();
}

TEST_F(DoctorTest, PodmanThatDoesNot) {
  CheckPodman(machine_, paths_, config_, report_);
  ExpectAllRight();
  Podman("[storage]\ndriver = \"overlay\"\n");
  ExpectOne(Finding::kNote, "does not name /var/lib/imagefs/podman");
  Podman("[storage.options]\nadditionalimagestores = [\"/var/lib/imagefs/podman\"]\n");
  ExpectOne(Finding::kProblem, "which does not exist");
}

TEST_F(DoctorTest, PodmanOfAnotherDriverOrWithABrokenFile) {
  ASSERT_TRUE(MakeDirs(machine_.At("/var/lib/imagefs/podman")).ok());
  Podman(
      "[storage]\ndriver = \"vfs\"\n[storage.options]\n"
      "additionalimagestores = [\"/var/lib/imagefs/podman\"]\n");
  ExpectOne(Finding::kWarning, "the driver vfs");
  Podman("[storage\n");
  ExpectOne(Finding::kProblem, "/etc/containers/storage.conf:1:");
}

TEST_F(DoctorTest, PodmansLayerStoreIsThereForBothOrNone) {
  ASSERT_TRUE(MakeDirs(machine_.At("/var/lib/imagefs/podman")).ok());
  const std::string images = "additionalimagestores = [\"/var/lib/imagefs/podman\"]\n";
  const std::string layers = "additionallayerstores = [\"/run/imagefs/als:ref\"]\n";
  Podman(StrCat("[storage.options]\n", images, layers));
  ExpectOne(Finding::kProblem, "which no daemon serves");
  config_.podman_layers = true;
  Podman(StrCat("[storage.options]\n", images));
  ExpectOne(Finding::kNote, "does not name /run/imagefs/als:ref");
}

TEST_F(DoctorTest, KubeletThatKeepsMoreFree) {
  CheckKubelet(machine_, config_, report_);
  EXPECT_TRUE(report_.checks().empty()) << "there is no kubelet";
  const std::string head =
      "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";
  Write("/var/lib/kubelet/config.yaml", head);
  CheckKubelet(machine_, config_, report_);
  ExpectAllRight();
  Write("/var/lib/kubelet/config.yaml", head + "imageGCHighThresholdPercent: 70\n");
  CheckKubelet(machine_, config_, report_);
  ExpectOne(Finding::kWarning, "keeps 30 % of the image disk free, fill.min_free is 15 %");
}

TEST_F(DoctorTest, KubeletsPluginsMustBeThere) {
  config_.kubelet_config = "/etc/providers.yaml";
  config_.kubelet_bin_dir = "/plugins";
  CheckKubelet(machine_, config_, report_);
  ExpectOne(Finding::kProblem, "providers.yaml");
  Write("/etc/providers.yaml",
        "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n"
        "- name: one\n  matchImages: [\"*.test\"]\n  defaultCacheDuration: 1h\n"
        "  apiVersion: credentialprovider.kubelet.k8s.io/v1\n");
  report_ = DoctorReport();
  CheckKubelet(machine_, config_, report_);
  ExpectOne(Finding::kProblem, "/plugins/one cannot be run");
  Write("/plugins/one", "#!/bin/sh\n", 0755);
  report_ = DoctorReport();
  CheckKubelet(machine_, config_, report_);
  ExpectAllRight();
}

TEST_F(DoctorTest, UnitsOfSystemd) {
  JudgeUnits("Id=imagefs.service\nLoadState=not-found\nActiveState=inactive\n\n", report_);
  ExpectAllRight();
  JudgeUnits(
      "Id=imagefs.service\nLoadState=loaded\nActiveState=inactive\nUnitFileState=disabled\n\n"
      "Id=imagefs.socket\nLoadState=loaded\nActiveState=active\nUnitFileState=enabled\n",
      report_);
  ExpectAllRight();
  JudgeUnits(
      "Id=imagefs.service\nLoadState=loaded\nActiveState=failed\nResult=exit-code\n\n"
      "Id=imagefs.socket\nLoadState=loaded\nActiveState=inactive\nUnitFileState=disabled\n",
      report_);
  ExpectOne(Finding::kProblem, "imagefs.service failed: exit-code");
  ExpectOne(Finding::kWarning, "imagefs.socket is inactive, disabled");
}

TEST_F(DoctorTest, AClockBeforeTheProgramIsAProblem) {
  CheckClock({1'700'000'000, 1'600'000'000, true}, report_);
  ExpectAllRight();
  CheckClock({1'700'000'000, 1'600'000'000, false}, report_);
  ExpectOne(Finding::kNote, "2023-11-14 22:13:20 UTC, not synchronised");
  CheckClock({1'500'000'000, 1'600'000'000, true}, report_);
  ExpectOne(Finding::kProblem, "before this program was made");
}

TEST_F(DoctorTest, FuseOfAUser) {
  machine_.root = false;
  CheckFuse(machine_, report_);
  EXPECT_EQ(report_.Count(Finding::kProblem), 2U) << Found(Finding::kProblem);
  EXPECT_NE(Found(Finding::kProblem).find("/dev/fuse does not exist"), std::string::npos);
  EXPECT_NE(Found(Finding::kProblem).find("fusermount3: it is not in"), std::string::npos);
  Write("/dev/fuse", "");
  Write("/bin/fusermount3", "#!/bin/sh\n", 0755);
  report_ = DoctorReport();
  CheckFuse(machine_, report_);
  ExpectOne(Finding::kProblem, "/bin/fusermount3 is not setuid root");
}

TEST_F(DoctorTest, LimitsOfADaemon) {
  Write("/proc/42/limits", "Limit  Soft Limit  Hard Limit\nMax open files   256   512   files\n");
  Write("/proc/sys/fs/mount-max", "10\n");
  Write("/proc/self/mountinfo", "1\n2\n");
  CheckLimits(machine_, 42, report_);
  ExpectOne(Finding::kWarning, "the daemon may open 256 files");
  Write("/proc/self/mountinfo", "1\n2\n3\n4\n5\n6\n7\n8\n9\n");
  Write("/proc/42/limits", "Max open files   unlimited   unlimited   files\n");
  report_ = DoctorReport();
  CheckLimits(machine_, 42, report_);
  ExpectOne(Finding::kWarning, "9 mounts of at most 10");
}

TEST_F(DoctorTest, TheStoresDirectory) {
  paths_.root = machine_.files + "/root";
  paths_.run = machine_.files + "/run";
  config_.space.reserve = {0, 0};
  config_.space.background_min_free = 0;
  EXPECT_EQ(CheckStore(paths_, config_, report_), machine_.files) << "it would be made there";
  ASSERT_TRUE(MakeDirs(paths_.root, 0700).ok());
  EXPECT_EQ(CheckStore(paths_, config_, report_), paths_.root);
  EXPECT_EQ(report_.Count(Finding::kProblem), 0U) << Found(Finding::kProblem);
  EXPECT_TRUE(ListDir(paths_.root)->empty()) << "nothing is left";
  ASSERT_EQ(chmod(paths_.root.c_str(), 0777), 0);
  CheckStore(paths_, config_, report_);
  ExpectOne(Finding::kWarning, "others may write to");
  Write("/file", "");
  paths_.root = machine_.files + "/file";
  EXPECT_EQ(CheckStore(paths_, config_, report_), "");
  ExpectOne(Finding::kProblem, "is not a directory");
}

TEST_F(DoctorTest, ADiskThatIsNearlyFull) {
  paths_.root = machine_.files;
  config_.space.reserve = SpaceAmount{UINT64_MAX, 100};
  CheckStore(paths_, config_, report_);
  ExpectOne(Finding::kProblem, "less than the reserve of");
  config_.space.reserve = {0, 0};
  config_.space.background_min_free = 100;
  report_ = DoctorReport();
  CheckStore(paths_, config_, report_);
  ExpectOne(Finding::kWarning, "less than fill.min_free");
}

TEST_F(DoctorTest, FilesOfMirrors) {
  HostResolver::Options options;
  options.containerd_dirs = {machine_.At("/certs.d")};
  options.registries_conf = {{machine_.At("/registries.conf"), ""}};
  CheckHosts(options, report_);
  ExpectAllRight();
  Write("/certs.d/a.test/hosts.toml", "server = \"https://a.test\"\n");
  CheckHosts(options, report_);
  ExpectAllRight();
  EXPECT_NE(Found(Finding::kOk).find("/certs.d/a.test/hosts.toml"), std::string::npos);
  Write("/certs.d/b.test/hosts.toml", "server = \n");
  CheckHosts(options, report_);
  ExpectOne(Finding::kProblem, "/certs.d/b.test/hosts.toml:1:");
  Write("/registries.conf", "[[registry\n");
  report_ = DoctorReport();
  CheckHosts(options, report_);
  EXPECT_EQ(report_.Count(Finding::kProblem), 2U) << Found(Finding::kProblem);
}

TEST_F(DoctorTest, TheReportAsTextAndAsJson) {
  report_.Ok("kernel", "Linux 6.18");
  report_.Warning("a longer name", "found\n\x1b[31m", "what it means", "what to do");
  report_.Problem("store", "full", "means", "remedy");
  EXPECT_EQ(DoctorText(report_),
            "ok       kernel         Linux 6.18\n"
            "warning  a longer name  found  [31m\n"
            "                        means:  what it means\n"
            "                        remedy: what to do\n"
            "problem  store          full\n"
            "                        means:  means\n"
            "                        remedy: remedy\n"
            "1 problem, 1 warning\n");
  const absl::StatusOr<Json> json = Json::Parse(DoctorJson(report_));
  ASSERT_TRUE(json.ok()) << json.status();
  EXPECT_EQ((*json)["checks"].size(), 3U);
  EXPECT_EQ((*json)["checks"].at(0).StringOr("result"), "ok");
  EXPECT_EQ((*json)["checks"].at(0).StringOr("remedy", "absent"), "");
  EXPECT_EQ((*json)["checks"].at(2).StringOr("meaning"), "means");
  EXPECT_EQ((*json)["problems"].integer(), 1);
  EXPECT_EQ((*json)["warnings"].integer(), 1);
}

}  // namespace
}  // namespace imagefs
