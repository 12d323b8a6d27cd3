"""What a board says of itself: its system, what is installed for it to run, its state now."""

import shlex

from devices.transport import Transport

# A line each: NAME=VALUE; what a board does not tell is left out.
_ASK = r"""
say() { [ -z "$2" ] || echo "$1=$2"; }
listed() { awk 'NR > 1 {printf ", "} {printf "%s", $0}'; }
say model "$(tr -d '\0' < {root}/proc/device-tree/model 2>/dev/null || getprop ro.product.model 2>/dev/null)"
say system "$(sed -n 's/^PRETTY_NAME="\(.*\)"/\1/p' {root}/etc/os-release 2>/dev/null)"
say kernel "$(uname -sr)"
say cores "$(grep -c ^processor {root}/proc/cpuinfo)"
say memory "$(awk '/^MemTotal/ {total = $2} /^MemAvailable/ {free = $2}
    END {printf "%d MiB, %d MiB free", total / 1024, free / 1024}' {root}/proc/meminfo)"
say disk "$(df -k . | awk 'END {printf "%d MiB free", $4 / 1024}')"
say governor "$(cat {root}/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor 2>/dev/null | sort -u | listed)"
say clock "$(cat {root}/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq 2>/dev/null |
    awk '{printf "%s%d", (NR > 1 ? ", " : ""), $1 / 1000} END {if (NR) print " MHz"}')"
say temperature "$(for zone in {root}/sys/class/thermal/thermal_zone*; do
    milli=$(cat "$zone/temp" 2>/dev/null) && echo "$(cat "$zone/type") $milli"
done | awk '{printf "%s %.1f °C\n", $1, $2 / 1000}' | listed)"
say power "$({
    for chip in {root}/sys/class/hwmon/hwmon*; do
        case "$(cat "$chip/name" 2>/dev/null)" in ina*) ;; *) continue; esac
        for rail in "$chip"/power[0-9]*_input; do
            [ -r "$rail" ] && echo "$(cat "${rail%_input}_label" 2>/dev/null || cat "$chip/name") $(cat "$rail") 0.001"
        done
        for rail in "$chip"/curr[0-9]*_input; do
            number=${rail##*/curr} number=${number%_input}
            [ -r "$chip/in${number}_label" ] || continue
            echo "$(cat "$chip/in${number}_label") $(cat "$rail") $(cat "$chip/in${number}_input") 0.001"
        done
    done
    for rail in {root}/sys/bus/i2c/drivers/ina3221x/*/iio:device*/in_power[0-9]*_input; do
        [ -r "$rail" ] || continue
        number=${rail##*/in_power} number=${number%_input}
        echo "$(cat "${rail%/*}/rail_name_$number") $(cat "$rail")"
    done
} | awk '{milliwatt = $2; for (n = 3; n <= NF; n++) milliwatt *= $n; printf "%s %d mW\n", $1, milliwatt}' | listed)"
"""
# Distributions, those that were installed by us too. Only a build for GPUs need be asked which providers it has.
_ASK_PYTHON = """
import glob, importlib.metadata as metadata, os, platform, sys
print("python=" + platform.python_version())
kept = os.environ.get("MSQ_KEPT")
sys.path += glob.glob(glob.escape(kept) + "/python-*") if kept else []
found = {}
for name in sys.argv[1:]:
    try: found[name] = metadata.version(name)
    except metadata.PackageNotFoundError: pass
if found: print("installed=" + ", ".join(" ".join(item) for item in found.items()))
if "onnxruntime-gpu" in found:
    import onnxruntime
    print("execution providers=" + ", ".join(onnxruntime.get_available_providers()))
"""
_DISTRIBUTIONS = [
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "ai-edge-litert",
    "tflite-runtime",
    "apache-tvm",
]


def board_info(transport: Transport, *, python: bool, root: str = "") -> dict[str, str]:
    """Return what a prepared device with a shell says: model, system, memory, governor, temperature, power …

    Args:
        python: whether it may have Python; then the distributions it has are among it.
        root: folder of the device that plays its file system.
    Raises:
        DeviceError: it cannot be reached.
    """
    said = transport.run(["sh", "-c", _ASK.replace("{root}", shlex.quote(root) if root else "")], 60).stdout
    if python and transport.run(["sh", "-c", "command -v python3"], 60).returncode == 0:
        said += transport.run(["python3", "-c", _ASK_PYTHON, *_DISTRIBUTIONS], 120).stdout
    # What a board says does not steer the terminal.
    lines = ("".join(filter(str.isprintable, line)) for line in said.splitlines())
    return dict(line.split("=", 1) for line in lines if "=" in line)
